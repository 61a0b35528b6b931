"""What training a teacher and training a student have in common before and after the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlabel.errors import InputError
from fastlabel.images.beton import Beton
from fastlabel.loader import SoftLabelLoader
from fastlabel.train.checkpoint import epoch_path
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Trainer
from fastlabel.views import ViewPolicy

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Result:
    """What a run ended with: its folder, the checkpoint after the last epoch, the metrics of every epoch."""

    out: Path
    checkpoint: Path
    history: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the validation images after the last epoch, as a share of 1."""
        return float(self.history[-1]["val_accuracy"])

    def to_dict(self) -> dict[str, Any]:
        """Paths and the last epoch's metrics, for JSON."""
        return {"out": str(self.out), "checkpoint": str(self.checkpoint), **self.history[-1]}


def finish(trainer: Trainer, resume: bool) -> Result:
    """Run the loop; what it ended with."""
    history = trainer.fit(resume)
    run = trainer.run.path
    return Result(run, epoch_path(run, trainer.recipe.epochs), history)


def check_same_classes(data: Beton, val: Beton) -> None:
    """Raise InputError when the validation images cannot be of the classes trained on."""
    if data.class_names and val.class_names and data.class_names != val.class_names:
        raise InputError(f"{val.path} has other classes than {data.path}: their class names differ")
    if val.num_classes > data.num_classes:
        raise InputError(f"{val.path} has {val.num_classes} classes and {data.path} {data.num_classes}: not a pair")


def evaluation_policy(training: ViewPolicy, val: Beton) -> ViewPolicy:
    """The center view that fits what was trained on.

    After random resized crops of larger images it is the central 7/8 (224 of 256 pixels); else the largest
    square.
    """
    larger = bool(np.any(np.minimum(val.heights, val.widths) > training.size))
    cropped = training.name == "random-resized-crop" and larger
    return ViewPolicy.center(training.size, fraction=(7, 8) if cropped else (1, 1))


def make_evaluator(val: Beton, training: ViewPolicy, device: torch.device, workers: int) -> Evaluator:
    """An evaluator over all images of `val`."""
    loader = SoftLabelLoader(
        val,
        None,
        batch_size=EVALUATION_BATCH,
        policy=evaluation_policy(training, val),
        num_workers=workers,
        shuffle=False,
    )
    return Evaluator(loader, device)


def drops_last(images: int, batch_size: int) -> bool:
    """Whether the last batch would be a single image, which batch norm cannot train on: it is left out."""
    return images > batch_size and images % batch_size == 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def plain(config: Any) -> Mapping[str, Any]:
    """A configuration dataclass as values that JSON can hold."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
