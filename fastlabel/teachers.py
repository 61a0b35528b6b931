"""The teachers of a labelling run: loaded, and described as the manifest keeps them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from fastlabel.codec import TopKCodec
from fastlabel.errors import InputError, TeacherError
from fastlabel.images.beton import Beton
from fastlabel.manifest import TeacherInfo
from fastlabel.models import Teacher, load_teacher


def load_teachers(teachers: Sequence[Teacher | str | os.PathLike[str]], device: torch.device) -> list[Teacher]:
    """The teachers that specs name, in eval mode on a device; loaded ones are taken as they are."""
    if not teachers:
        raise InputError("no teacher; give at least one checkpoint")
    return [load_teacher(Path(t), device) if isinstance(t, (str, os.PathLike)) else t for t in teachers]


def describe(teacher: Teacher, beton: Beton, k: int, device: torch.device, forward_batch: int) -> TeacherInfo:
    """What the manifest keeps of a teacher that labels a dataset. TeacherError unless it fits."""
    spec = teacher.model.spec
    if spec.num_classes != beton.num_classes:
        raise TeacherError(
            f"teacher {teacher.name} has {spec.num_classes} classes, {beton.path} has {beton.num_classes}; "
            "take a teacher of this dataset"
        )
    return TeacherInfo(
        name=teacher.name,
        arch=spec.arch,
        sha256=teacher.sha256,
        epoch=teacher.epoch,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        precision="fp32",
        tf32=False,
        device=device.type,
        forward_batch=forward_batch,
        codec=TopKCodec(k, spec.num_classes),
    )
