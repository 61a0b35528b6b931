"""A teacher: a frozen classifier with what a store records of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.digests import canonical_digest
from fastlabel.errors import TeacherError
from fastlabel.models.classifier import Classifier, ModelSpec, restore_classifier
from fastlabel.models.weights import read_checkpoint, weights_sha256

OWN = "module:"  # begins the arch of a module of the caller's, before the name of its class


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier in eval mode, with what a store records of it.

    Attributes:
        model: images [B, 3, H, W] of 0 to 255 to logits; its `spec` says of which size, and how many logits.
        epoch: of a checkpoint of train-teacher; else None.
        precision, tf32, forward: how it runs (`fastlabel.teachers.precision`).
        categories: the names of its classes, where its weights bring them.
        class_map: for each class of the dataset the teacher's own; None where both are the same.
        keeps_classes: labels are over all of the teacher's own classes, not over those of the dataset.
        fixed_batch: the only batch size that it takes, if there is but one.
        extra_state: weights that are not in the model's state dict.
        ensemble: how the logits of `members` become one teacher's; None for a single network.
    """

    model: Classifier
    name: str
    epoch: int | None = None
    precision: str = "fp32"
    tf32: bool = False
    forward: str = "eager"
    categories: tuple[str, ...] = ()
    class_map: tuple[int, ...] | None = None
    keeps_classes: bool = False
    fixed_batch: int | None = None
    extra_state: Mapping[str, Tensor] = field(default_factory=dict)
    ensemble: str | None = None
    members: tuple[Teacher, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the weights as they are now, normalisation included; of an ensemble that of its members'."""
        if self.members:
            return canonical_digest({"members": [member.sha256 for member in self.members]})
        return weights_sha256({**self.model.state_dict(), **self.extra_state})

    @property
    def num_classes(self) -> int:
        """The number of classes of its labels."""
        if self.class_map is None or self.keeps_classes:
            return self.model.spec.num_classes
        return len(self.class_map)


def frozen_teacher(name: str, spec: ModelSpec, net: nn.Module, **options: Any) -> Teacher:
    """The teacher of a network with its weights. TeacherError unless it has as many categories as classes, or none."""
    teacher = Teacher(Classifier(spec, net).eval().requires_grad_(False), plain_name(name), **options)
    if len(teacher.categories) not in (0, spec.num_classes):
        named = len(teacher.categories)
        raise TeacherError(f"teacher {teacher.name} has {spec.num_classes} classes and {named} categories")
    return teacher


def load_teacher(path: str | Path, device: str | torch.device = "cpu") -> Teacher:
    """The classifier of a checkpoint, in eval mode on `device`. Raises TeacherError if it cannot be used."""
    teacher = teacher_of_checkpoint(path, read_checkpoint(path))
    teacher.model.to(device)
    return teacher


def teacher_of_checkpoint(path: str | Path, content: Mapping[str, Any], size: int | None = None) -> Teacher:
    """The teacher of a checkpoint that was read, for images of its own size or of `size` pixels."""
    if size is not None:
        content = {**content, "spec": {**content["spec"], "size": size}}
    model, run = restore_classifier(path, content), Path(path).resolve()
    name = plain_name(f"{run.parent.name}-{run.stem}")
    return Teacher(model.eval().requires_grad_(False), name, epoch=content["epoch"], categories=model.categories)


def plain_name(text: str) -> str:
    """A teacher's name of letters that do no harm in a path or a terminal."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)
