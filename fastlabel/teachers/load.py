"""The teachers of a labelling run, loaded as people name them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.teachers.class_map import IN_ORDER, Classes, pairs_of, read_class_map, resolve_class_map
from fastlabel.teachers.class_order import in_order
from fastlabel.teachers.ensemble import combine
from fastlabel.teachers.precision import check_precision
from fastlabel.teachers.sources import load_source
from fastlabel.teachers.spec import AnyTeacher, as_spec
from fastlabel.teachers.teacher import Teacher


def load_teachers(
    teachers: Sequence[AnyTeacher],
    device: torch.device,
    beton: Beton | None = None,
    size: int | None = None,
    ensemble: str | None = None,
) -> list[Teacher]:
    """Teachers that are named, in eval mode on a device; loaded ones are taken as they are.

    Args:
        beton: the dataset that they shall label: whose classes a class map speaks of.
        size: of the views in pixels, if that is settled: what a teacher takes that says no size;
            default what the first takes.
        ensemble: "mean-logits", "mean-probs" or "scaled-logits" makes them one teacher.

    Raises:
        InputError: a name, an option or a class map cannot be used. TeacherError: weights cannot be loaded.
    """
    if not teachers:
        raise InputError("no teacher; give at least one: a checkpoint, torchvision:NAME@WEIGHTS, timm:NAME ...")
    loaded = [_load(teachers[0], device, beton, size)]
    views = size or loaded[0].model.spec.size
    loaded += [_load(teacher, device, beton, views) for teacher in teachers[1:]]
    return loaded if ensemble is None else [combine(loaded, ensemble, views)]


def _load(teacher: AnyTeacher, device: torch.device, beton: Beton | None, size: int | None) -> Teacher:
    dataset = None
    if beton is not None:
        dataset = Classes(str(beton.path), beton.num_classes, tuple(beton.class_names or ()))
    if isinstance(teacher, Teacher):
        check_precision(teacher.precision, teacher.tf32, device.type, teacher.forward)
        return teacher if dataset is None else in_order(teacher, dataset)
    spec = as_spec(teacher)
    check_precision(spec.precision, spec.tf32, device.type, spec.forward)
    loaded = replace(
        load_source(spec, device, size),
        precision=spec.precision,
        tf32=spec.tf32,
        forward=spec.forward,
        keeps_classes=spec.keep_classes,
    )
    if spec.class_map == IN_ORDER:
        return loaded
    if spec.class_map is not None:
        return replace(loaded, class_map=_class_map(spec.class_map, loaded, dataset))
    return loaded if dataset is None else in_order(loaded, dataset)


def _class_map(given: Any, loaded: Teacher, dataset: Classes | None) -> tuple[int, ...]:
    if dataset is None:
        raise InputError("a class map needs the dataset whose classes it speaks of")
    pairs = read_class_map(given) if isinstance(given, (str, os.PathLike)) else pairs_of(given)
    teacher = Classes(f"teacher {loaded.name}", loaded.model.spec.num_classes, loaded.categories)
    return resolve_class_map(pairs, dataset, teacher)
