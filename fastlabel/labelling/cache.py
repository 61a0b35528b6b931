"""cache_labels: every crop of a dataset through one or more teachers, into a store, unit by unit."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import first_difference, ids_digest
from fastlabel.errors import InputError, ManifestMismatchError
from fastlabel.images.device_loader import crops_on_device, make_image_loader
from fastlabel.images.loader import ImageLoader
from fastlabel.labelling.arguments import check_labelling
from fastlabel.labelling.forward import TeacherForward
from fastlabel.labelling.unit import label_units, try_labelling
from fastlabel.sampling import images_per_class
from fastlabel.store import units as commit
from fastlabel.store.grow import Growth, grown_store, plan_growth
from fastlabel.store.manifest import DECODE_VIEWS, DatasetInfo, Manifest, Segment, Unit
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress
from fastlabel.system.devices import current_device, pick_device
from fastlabel.system.progress import Progress
from fastlabel.system.ranks import Ranks
from fastlabel.system.signals import StopRequest
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.recorded import describe
from fastlabel.teachers.spec import AnyTeacher
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy

DEFAULT_POLICY = "random-resized-crop"
# A rank may wait for another one's unit, which takes as long as its teacher takes; torchrun ends those whose peer died.
PATIENCE = timedelta(days=7)
FORWARD_BATCH = {"cpu": 64, "cuda": 256}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheReport:
    """What a labelling run did, or with ``dry_run`` would do.

    Attributes:
        crops: sample-view pairs that the finished store holds.
        crops_done: those labelled by this run, each by all teachers.
        units, units_done: of the run's teachers in the whole store; committed by this run.
        bytes_on_disk: of the finished store; an estimate in a dry run.
        seconds: that labelling took; an estimate in a dry run.
    """

    store: str
    samples: int
    views: int
    teachers: tuple[str, ...]
    k: int
    num_classes: int
    crops: int
    crops_done: int
    units: int
    units_done: int
    bytes_on_disk: int
    seconds: float
    dry_run: bool = False


def cache_labels(
    beton: Beton | str | os.PathLike[str],
    store: str | os.PathLike[str],
    teachers: Sequence[AnyTeacher],
    views: int,
    k: int,
    size: int | None = None,
    seed: int = 0,
    *,
    policy: ViewPolicy | str = DEFAULT_POLICY,
    flip: bool = True,
    ipc: int | None = None,
    subset: ArrayLike | None = None,
    num_workers: int = 0,
    decode_batch: int | None = None,
    forward_batch: int | None = None,
    ensemble: str | None = None,
    device: str | torch.device | None = None,
    dry_run: bool = False,
    progress: bool = False,
    stop: StopRequest | None = None,
    ranks: Ranks | None = None,
) -> CacheReport:
    """Label ``views`` views of a dataset by every teacher, and store the top ``k`` classes of each crop.

    A store of the same run at that path is continued: units that are committed stay. It grows where this run asks for
    more views, for more samples that include its own, or for a teacher that it does not have. The stored bytes depend
    on nothing but the dataset, the teachers, the views, ``k``, ``forward_batch`` and the kind of device (and, as far
    as a forward pass does, on the versions of PyTorch and its number of threads).

    Args:
        teachers: checkpoints, names of pretrained weights, ``TeacherSpec``, or loaded teachers; all see the same crops.
        k: classes kept of each label, up to the number of classes.
        size: side of the crops in pixels; default what the first teacher takes.
        seed: of the views, and of the samples that ``ipc`` chooses.
        policy: the name of a view policy, or a policy with other parameters than the usual.
        flip: whether a policy given by name mirrors half of the crops.
        ipc: label only that many random images per class.
        subset: label only these samples, by index in the file.
        decode_batch: samples decoded at a time; no influence on the result.
        forward_batch: samples in a teacher's forward pass, which is part of what a label depends on; default 256 on
            CUDA, 64 on a CPU.
        ensemble: "mean-logits" or "mean-probs" stores all teachers as one.
        device: default CUDA when there is one.
        stop: asked after each unit; a run that is to stop commits the unit in hand first.
        ranks: the processes that share the work, unit by unit; default those of torch.distributed or torchrun.

    Raises:
        InputError: an argument cannot be used. ManifestMismatchError: the store is of another run.
        Interrupted: ``stop`` was requested.
        TeacherError: a teacher's logits have the wrong width, or are NaN, +inf or all -inf (names the samples).
        ImageDecodeError: an image is broken (names the sample).
    """
    counts = {"views": views, "k": k, "size": size, "seed": seed, "ipc": ipc, "num_workers": num_workers}
    counts |= {"decode_batch": decode_batch, "forward_batch": forward_batch}
    check_labelling(store, teachers, policy, {"flip": flip, "dry_run": dry_run}, counts)
    ranks = ranks or Ranks.current()
    device = ranks.device(pick_device(device or "auto"))
    if forward_batch is None:
        forward_batch = FORWARD_BATCH[device.type]
    beton = Beton.open(beton)
    wanted = policy.size if isinstance(policy, ViewPolicy) else size
    models = load_teachers(teachers, device, beton, wanted, ensemble)
    size = size or models[0].model.spec.size
    if isinstance(policy, str):
        policy = ViewPolicy.from_name(policy, size, seed, flip)
    if views < 1:
        raise InputError(f"views {views} must be at least 1")
    ids = _choose_samples(beton, ipc, subset, seed)
    _advise(models, device)
    infos = tuple(describe(teacher, beton, k, device, forward_batch) for teacher in models)
    with current_device(device), ranks.group(PATIENCE) as ranks:
        if ranks.first:
            beton.fingerprint(progress)  # kept in a file, for the ranks that see it
        ranks.agree(None)
        manifest = Manifest(
            DatasetInfo(beton.num_samples, beton.num_classes, beton.fingerprint()),
            (Segment(len(ids), ids_digest(ids)),),
            policy,
            views,
            Unit.for_store(views, len(ids), max(info.codec.nbytes_per_label for info in infos)),
            infos,
        )
        manifest.validate()
        _check_ranks(ranks, manifest)
        growth = plan_growth(Path(store), manifest, ids)
        decode_batch = decode_batch or decode_batch_size(policy.size, device)
        images = make_image_loader(beton, policy, decode_batch, ranks.workers(num_workers), device)
        forwards = [TeacherForward(*pair, device) for pair in zip(models, manifest.teachers, strict=True)]
        if dry_run:
            return _estimate(Path(store), growth, ids, images, forwards)
        with ExitStack() as held:
            work: Any = None
            if ranks.first:
                shared = ranks.world_size > 1
                growth = held.enter_context(grown_store(Path(store), manifest, ids, beton.class_names, shared))
                todo = growth.todo()
                work = (growth.teachers, todo)
            numbers, todo = ranks.agree(work)
            if not ranks.first:
                held.enter_context(commit.writing(Path(store), shared=True))
            target = growth.store if ranks.first and growth.store else LabelStore.open(store)
            of_number = dict(zip(numbers, forwards, strict=True))
            return _label(target, images, of_number, todo, progress, stop, ranks)


def _advise(teachers: Sequence[Teacher], device: torch.device) -> None:
    """Say what would be much faster, while it can still be chosen: it is part of what a label is."""
    full = [teacher.name for teacher in teachers if teacher.precision == "fp32" and not teacher.tf32]
    if full and device.type == "cuda":
        logger.warning(
            "%s: computes in full float32, without tensor cores; --precision bf16 is about three times as fast (choose "
            "now: it is part of what a label is)",
            ", ".join(full),
        )


def _check_ranks(ranks: Ranks, manifest: Manifest) -> None:
    """ManifestMismatchError unless all ranks would make the same store: rank 0's manifest stands for all labels."""
    mine = manifest.shared_dict() | {
        "num_views": manifest.num_views,
        "samples": [asdict(segment) for segment in manifest.samples],
        "teachers": [teacher.identity() for teacher in manifest.teachers],
    }
    first, *others = ranks.gather(mine)
    for rank, other in enumerate(others, start=1):
        difference = first_difference(first, other)
        if difference:
            where, found, wanted = difference
            raise ManifestMismatchError(
                f"the ranks of this run disagree: {where} is {found} on rank 0 and {wanted} on rank {rank}; "
                "give all the same command, data, teachers and kind of device"
            )


def _choose_samples(beton: Beton, ipc: int | None, subset: ArrayLike | None, seed: int) -> NDArray[np.int64]:
    if ipc is not None and subset is not None:
        raise InputError("give images per class or a subset, not both")
    if ipc is not None:
        return images_per_class(beton.targets, ipc, seed)
    if subset is None:
        return np.arange(beton.num_samples, dtype=np.int64)
    chosen = np.asarray(subset)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
        raise InputError(f"a subset must be a list of sample ids, not empty; got {chosen.dtype} {chosen.shape}")
    ids = np.unique(chosen.astype(np.int64))
    if ids[0] < 0 or ids[-1] >= beton.num_samples:
        raise InputError(f"subset ids {ids[0]} to {ids[-1]} leave the file's {beton.num_samples} samples")
    return ids


def decode_batch_size(size: int, device: torch.device) -> int:
    """Samples per decode, so that a batch of eight views stays near 16 MB whatever the size of a crop.

    Crops on a GPU take none of the CPU's memory, and its many threads want a few images each.
    """
    least = 64 if crops_on_device(device) else 8
    return max(least, min(512, (16 << 20) // (DECODE_VIEWS * size * size * 3)))


def _label(
    store: LabelStore,
    images: ImageLoader,
    forwards: dict[int, TeacherForward],
    todo: list[tuple[UnitAddress, list[int]]],
    progress: bool,
    stop: StopRequest | None,
    ranks: Ranks,
) -> CacheReport:
    """Label this rank's share of the units that lack some teachers, by number, and wait for the other ranks."""
    open_units = [(unit, lacking) for unit, lacking in todo if lacking]
    crops = store.num_views * len(store.ids)
    missing = sum(unit.shape[0] * unit.shape[1] for unit, _ in open_units)
    share = open_units[ranks.rank :: ranks.world_size]
    others = missing - sum(unit.shape[0] * unit.shape[1] for unit, _ in share)
    started = time.monotonic()
    patience = nullcontext() if stop is None else stop.deferred()
    with (
        patience,
        Progress(
            "cache-labels" if ranks.world_size == 1 else f"cache-labels, rank {ranks.rank} of {ranks.world_size}",
            crops - others,
            "crops",
            done=crops - missing,
            shown=progress,
            row=ranks.local_rank,
        ) as bar,
    ):
        for _ in label_units(store, share, images, forwards, bar.update, stop):
            pass
    ranks.agree(None)
    done = sum(len(lacking) for _, lacking in open_units)
    return _report(store, list(forwards), missing, done, time.monotonic() - started)


def _report(store: LabelStore, numbers: list[int], crops_done: int, units_done: int, seconds: float) -> CacheReport:
    teachers = [store.manifest.teachers[number] for number in numbers]
    return CacheReport(
        store=str(store.path),
        samples=len(store.ids),
        views=store.num_views,
        teachers=tuple(teacher.name for teacher in teachers),
        k=teachers[0].codec.k,
        num_classes=teachers[0].codec.num_classes,
        crops=store.num_views * len(store.ids),
        crops_done=crops_done,
        units=len(list(store.units())) * len(teachers),
        units_done=units_done,
        bytes_on_disk=sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        seconds=seconds,
    )


def _estimate(
    path: Path,
    growth: Growth,
    ids: NDArray[np.int64],
    images: ImageLoader,
    forwards: list[TeacherForward],
) -> CacheReport:
    """Label a few batches into nowhere, and extrapolate."""
    sample = ids[: 4 * forwards[0].batch]
    views = growth.manifest.num_views
    some = range(min(views, DECODE_VIEWS))
    try_labelling(images, forwards, sample, some)  # compiles and warms up
    seconds, compressed = try_labelling(images, forwards, sample, some)
    measured, crops = len(sample) * len(some), views * len(ids)
    units = list(commit.addresses(growth.manifest))
    missing = sum(unit.shape[0] * unit.shape[1] for unit in units if growth.lacking(unit))
    return CacheReport(
        store=str(path),
        samples=len(ids),
        views=views,
        teachers=tuple(forward.info.name for forward in forwards),
        k=forwards[0].info.codec.k,
        num_classes=forwards[0].info.codec.num_classes,
        crops=crops,
        crops_done=0,
        units=len(units) * len(forwards),
        units_done=0,
        bytes_on_disk=round(compressed / measured * crops),
        seconds=seconds / measured * missing,
        dry_run=True,
    )
