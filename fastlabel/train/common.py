"""What training a teacher and training a student have in common before and after the loop."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
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
from fastlabel.train.loop import Reporter, Trainer
from fastlabel.train.run_folder import Run
from fastlabel.views import ViewPolicy

EVALUATION_BATCH = 256
_LOG = logging.getLogger(__name__)


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


def finish(trainer: Trainer, run: Run, resume: bool) -> Result:
    """Run the loop; what it ended with."""
    if resume and trainer.ranks.first and not (run.path / "last.pt").exists():
        tell(trainer.reporter, f"{run.path} holds no saved state: the run starts anew")
    history = trainer.fit(resume)
    return Result(run.path, epoch_path(run.path, trainer.recipe.epochs), history)


def tell(reporter: Reporter | None, text: str) -> None:
    """Say what a user should know before a run, where nobody reports in the log."""
    if reporter is not None:
        reporter.note(text)
    else:
        _LOG.warning(text)


def check_same_classes(data: Beton, val: Beton, allow_missing: bool = False) -> tuple[int, ...] | None:
    """Which class of `data` each class of `val` is; None where they are the same, or have no names.

    With `allow_missing` some classes may have no folder among the validation images. Raises InputError when these
    cannot be of the classes trained on.
    """
    ours, theirs = data.class_names, val.class_names
    if ours and theirs and ours != theirs:
        if allow_missing and set(theirs) <= set(ours):
            return tuple(ours.index(name) for name in theirs)
        raise InputError(f"{val.path} has other classes than {data.path}: {_difference(ours, theirs)}")
    if val.num_classes > data.num_classes:
        raise InputError(
            f"{val.path} has {val.num_classes} classes and {data.path} {data.num_classes}: they must have the same"
        )
    return None


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How the class names of two datasets differ, in words."""
    missing = [name for name in ours if name not in set(theirs)]
    extra = [name for name in theirs if name not in set(ours)]
    if not missing and not extra:
        index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        return f"they are in another order, class {index} is {theirs[index]!r} and not {ours[index]!r}"
    forms = [[unicodedata.normalize("NFC", name) for name in names] for names in (ours, theirs)]
    if forms[0] == forms[1]:
        kind = "NFC" if unicodedata.is_normalized("NFC", extra[0]) else "NFD"
        return f"its names are spelled in Unicode's other form, {kind}: {_some(extra)}; rename those folders"
    parts = [f"it lacks {_some(missing)}"] * bool(missing) + [f"it has {_some(extra)} besides"] * bool(extra)
    advice = "" if extra else "; train-teacher and train-student take --allow-missing-classes"
    return " and ".join(parts) + advice


def _some(names: Sequence[str]) -> str:
    """The first five."""
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


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
    num_workers: int,
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
        num_workers=ranks.workers(num_workers),
        shuffle=False,
        class_map=class_map,
        rank=ranks.rank,
        world_size=ranks.world_size,
        resident_bytes=0,  # for the images that are trained on; the evaluator keeps crops itself
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
    least = _least_for_batch_norm(model)
    whole = min(in_batch, images)
    # A rank takes images with all their crops.
    if whole // ranks.world_size * views_per_image < least:
        shared = f" to each of {ranks.world_size} ranks" if not ranks.alone else ""
        raise InputError(
            f"batches of {whole} images leave less than {least}{shared}, too few for this network's batch norm: take "
            f"larger batches{'' if ranks.alone else ' or fewer ranks'}"
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
