"""What a study runs with: the same for all of them, but for the axes of its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlabel.errors import InputError
from fastlabel.train.common import plain
from fastlabel.train.recipes import Recipe

Value = int | float | str
Params = dict[str, Any]
"""One cell of a grid: axis -> value, without the repeat."""


def student_recipe(
    epochs: int,
    optimizer: str = "sgd",
    lr: float | None = None,
    batch_size: int = 256,
    amp: bool = False,
) -> Recipe:
    """The students' recipe of arXiv 2406.10485.

    SGD: rate 0.01, momentum 0.9, weight decay 5e-4, times 0.3 after each quarter of the epochs (ConvNets). AdamW: rate
    and weight decay 0.01, cosine (ResNets).
    """
    lr = 0.01 if lr is None else lr
    if optimizer == "adamw":
        return Recipe(epochs, batch_size, "adamw", lr, weight_decay=0.01, schedule="cosine", amp=amp)
    return Recipe(epochs, batch_size, optimizer, lr, 0.9, nesterov=False, weight_decay=5e-4, schedule="step", amp=amp)


@dataclass(frozen=True)
class StudyConfig:
    """One run of a study.

    Attributes:
        data, val: .beton files to choose training images from, and to test on.
        experts: folder of `study experts`, or of a train-teacher run.
        out: folder of the results.
        recipe: of the students.
        arch: of the students; default the first expert's.
        grid: values of the study's axes, where they are not the usual ones.
        repeats: students in each cell, each from other initial weights.
        same_images: all repeats train on the same images, as in the paper; else each chooses its own.
        augment: of the students, see SiameseAugmentation.from_name.
        num_workers: threads that decode; 0 takes all cores.
    """

    data: str | Path
    val: str | Path
    experts: str | Path
    out: str | Path
    recipe: Recipe
    arch: str | None = None
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    repeats: int = 3
    same_images: bool = False
    augment: str = "dsa"
    seed: int = 0
    num_workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"repeats must be 1 or more, not {self.repeats}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(plain(self))

    def image_seed(self, repeat: int) -> int:
        """Chooses the images of a repeat."""
        return self.seed if self.same_images else derived_seed(self.seed, 1, repeat)

    def student_seed(self, repeat: int) -> int:
        """Of a student's weights, order and augmentation: the same in all cells, which so differ in nothing else."""
        return derived_seed(self.seed, 2, repeat)


def derived_seed(seed: int, purpose: int, number: int) -> int:
    """A seed of its own for each use."""
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0])
