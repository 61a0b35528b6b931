"""What training a teacher and training a student have in common before and after the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.loading.loader import SoftLabelLoader, images_per_batch
from fastlabel.models.classifier import Classifier
from fastlabel.system.ranks import Ranks
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


def make_evaluator(
    val: Beton,
    training: ViewPolicy,
    workers: int,
    ranks: Ranks,
    device: torch.device,
    amp: bool = False,
    class_map: Sequence[int] | None = None,
) -> Evaluator:
    """An evaluator over all images of `val`, shared among the ranks, in the precision of training.

    `class_map` gives the model's class of each class of `val`; None where they are the same.
    """
    loader = SoftLabelLoader(
        val,
        None,
        batch_size=EVALUATION_BATCH * ranks.world_size,
        device=device,
        policy=evaluation_policy(training, val),
        num_workers=ranks.workers(workers),
        shuffle=False,
        class_map=class_map,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return Evaluator(loader, device, ranks, amp)


def prepare(model: Classifier, sync_batch_norm: bool, ranks: Ranks, device: torch.device) -> Classifier:
    """The model as all ranks train it; with `sync_batch_norm` its batch norm takes statistics over all of them.

    Without, each rank normalises its slice of a batch by that slice alone, as PyTorch does by default. Raises
    InputError where that cannot be had.
    """
    if not sync_batch_norm or ranks.alone:
        return model
    if device.type != "cuda":
        raise InputError(f"PyTorch synchronises batch norm on CUDA only, not on {device}: leave it off")
    synchronised: Classifier = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised


def drops_last(images: int, batch_size: int, model: nn.Module, ranks: Ranks, views_per_image: int = 1) -> bool:
    """Whether the last batch is left out, because batch norm could not train on what a process gets of it.

    That is a single crop, and among several ranks less than two crops for each; networks without batch norm lose
    only a last batch of one crop, for any number of ranks. Raises InputError when even a whole batch is too small.
    """
    in_batch = images_per_batch(batch_size, views_per_image)
    last = images % in_batch if images > in_batch else 0
    if last * views_per_image == 1:
        return True
    least = _least_for_batch_norm(model) if not ranks.alone else 0
    whole = min(in_batch, images)
    # A rank takes images with all their crops.
    if whole // ranks.world_size * views_per_image < least:
        raise InputError(
            f"batches of {whole} images leave less than {least} to each of {ranks.world_size} ranks, too few for this "
            "network's batch norm: take larger batches or fewer ranks"
        )
    return last > 0 and last // ranks.world_size * views_per_image < least


def _least_for_batch_norm(model: nn.Module) -> int:
    """Images that a rank needs at least: its batch norm alone cannot train on one."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return 0
    return 1 if all(isinstance(norm, nn.SyncBatchNorm) for norm in norms) else 2


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def seed_rank(seed: int, ranks: Ranks) -> None:
    """Random numbers of its own for every rank but the first, so that dropout differs between their slices."""
    if not ranks.first:
        digest = hashlib.sha256(f"{seed} {ranks.rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))


def plain(config: Any) -> Mapping[str, Any]:
    """A configuration dataclass as values that JSON can hold."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
