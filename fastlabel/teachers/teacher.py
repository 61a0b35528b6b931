"""A teacher: a frozen classifier with what a store records of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastlabel.models.classifier import Classifier, restore_classifier
from fastlabel.models.weights import read_checkpoint, weights_sha256


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier in eval mode, with what a store records of it.

    Attributes:
        model: images [B, 3, H, W] of 0 to 255 to logits; its `spec` says of which size, and how many logits.
        sha256: of the weights, normalisation included.
        epoch: of a checkpoint of train-teacher; else None.
        precision, tf32, forward: how it runs (`fastlabel.teachers.precision`).
        categories: the names of its classes, where its weights bring them.
        class_map: for each class of the dataset the teacher's own; None where both are the same.
        keeps_classes: labels are over all of the teacher's own classes, not over those of the dataset.
        fixed_batch: the only batch size that it takes, if there is but one.
        ensemble: how the logits of `members` become one teacher's; None for a single network.
    """

    model: Classifier
    name: str
    sha256: str
    epoch: int | None
    precision: str = "fp32"
    tf32: bool = False
    forward: str = "eager"
    categories: tuple[str, ...] = ()
    class_map: tuple[int, ...] | None = None
    keeps_classes: bool = False
    fixed_batch: int | None = None
    ensemble: str | None = None
    members: tuple[Teacher, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes of its labels."""
        if self.class_map is None or self.keeps_classes:
            return self.model.spec.num_classes
        return len(self.class_map)


def load_teacher(path: str | Path, device: str | torch.device = "cpu") -> Teacher:
    """The classifier of a checkpoint, in eval mode on `device`. Raises TeacherError if it cannot be used."""
    teacher = teacher_of_checkpoint(path, read_checkpoint(path))
    return replace(teacher, model=teacher.model.to(device))


def teacher_of_checkpoint(path: str | Path, content: Mapping[str, Any], size: int | None = None) -> Teacher:
    """The teacher of a checkpoint that was read, for images of its own size or of `size` pixels."""
    if size is not None:
        content = {**content, "spec": {**content["spec"], "size": size}}
    model = restore_classifier(path, content)
    run = Path(path).resolve()
    return Teacher(
        model=model.eval().requires_grad_(False),
        name=plain_name(f"{run.parent.name}-{run.stem}"),
        sha256=weights_sha256(model.state_dict()),
        epoch=int(content["epoch"]),
    )


def plain_name(text: str) -> str:
    """A teacher's name of letters that do no harm in a path or a terminal."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)
