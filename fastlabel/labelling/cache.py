"""cache_labels: every crop of a dataset through one or more teachers, into a store, unit by unit."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from fastlabel.dataset.beton import Beton
from fastlabel.digests import first_difference
from fastlabel.errors import InputError, ManifestMismatchError
from fastlabel.images.device_loader import crops_on_device, make_image_loader
from fastlabel.images.loader import ImageLoader
from fastlabel.labelling.arguments import check_labelling
from fastlabel.labelling.calibration import DEFAULT_STEP, Transform, calibrated_codecs
from fastlabel.labelling.codec_choice import Choice, Goal
from fastlabel.labelling.estimate import estimate
from fastlabel.labelling.forward import TeacherForward
from fastlabel.labelling.options import FORWARD_BATCH, Execution, Labelling, choose_samples, view_policy
from fastlabel.labelling.plausibility import warn_of_doubts
from fastlabel.labelling.report import CacheReport
from fastlabel.labelling.unit import label_units, passes
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.grow import distinct_crops, grown_store, plan_growth
from fastlabel.store.manifest import DECODE_VIEWS, Manifest
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress, count_units, writing
from fastlabel.system.arguments import boolean, one_of
from fastlabel.system.devices import current_device, pick_device
from fastlabel.system.progress import Progress
from fastlabel.system.ranks import Ranks
from fastlabel.system.signals import StopRequest
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.spec import AnyTeacher
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import Mixing, Partners, ViewPolicy, ViewSpec, segment_order

DEFAULT_POLICY = "random-resized-crop"
# A rank may wait for another one's unit, which takes as long as its teacher takes; torchrun ends those whose peer died.
PATIENCE = timedelta(days=7)

logger = logging.getLogger(__name__)


def cache_labels(
    beton: Beton | str | os.PathLike[str],
    store: str | os.PathLike[str],
    teachers: Sequence[AnyTeacher],
    views: int,
    k: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    *,
    policy: ViewPolicy | ViewSpec | str | os.PathLike[str] = DEFAULT_POLICY,
    flip: bool | None = None,
    mixing: Mixing | None = None,
    ipc: int | None = None,
    subset: ArrayLike | None = None,
    num_workers: int = 0,
    decode_batch: int | None = None,
    forward_batch: int | None = None,
    ensemble: str | None = None,
    device: str | torch.device | None = "auto",
    transform: int | None = None,
    step: float = DEFAULT_STEP,
    goal: Goal | None = None,
    logit_offset: bool = False,
    dry_run: bool = False,
    progress: bool = False,
    stop: StopRequest | None = None,
    ranks: Ranks | None = None,
) -> CacheReport:
    """Label `views` views of a dataset by every teacher, and store the top `k` classes of each crop.

    A store of the same run at that path is continued: units that are committed stay. It grows where this run asks for
    more views, for more samples that include its own, or for a teacher that it does not have. The stored bytes depend
    on nothing but the dataset, the teachers, the views, `k`, `forward_batch` and the kind of device (and, as far
    as a forward pass does, on the versions of PyTorch and its number of threads).

    Args:
        teachers: checkpoints, names of pretrained weights, `TeacherSpec`, or loaded teachers; all see the same crops.
        k: classes kept of each label, up to the number of classes. None lets `goal` choose.
        size: side of the crops in pixels; default what the first teacher takes.
        seed: of the views, and of the samples that `ipc` chooses; default 0.
        policy: the name of a view policy, a TOML or JSON file (docs/labelling.md), a `ViewSpec`, in all of which
            arguments win; or a policy, whose size, seed and flip no argument may contradict.
        flip: whether a policy given by name mirrors half of the crops; default True.
        mixing: CutMix or MixUp of the crops of pairs of samples, for a policy given by name: `Mixing.of(cutmix=1.0)`.
        ipc: label only that many random images per class.
        subset: label only these samples, by index in the file.
        decode_batch: samples decoded at a time; no influence on the result.
        forward_batch: samples in a teacher's forward pass, which is part of what a label depends on; default 256 on
            CUDA, 64 on a CPU.
        transform: store so many coefficients of all logits beside the top `k`, on a basis that is made first, from
            some crops of the run: labels for every temperature. A store that is continued keeps its basis.
        step: nats, of a code of these coefficients.
        goal: choose `transform` and `step`, and `k` without one, on a fifth of the calibration crops.
        logit_offset: store the mean of the logits too, in two bytes: for losses that need more than their differences.
            Of labels with a transform.
        ensemble: "mean-logits", "mean-probs" or "scaled-logits" stores all teachers as one.
        device: "auto", CUDA when there is one, "cpu" or "cuda".
        stop: asked after each unit; a run that is to stop commits the unit in hand first.
        ranks: the processes that share the work, unit by unit; default those of torch.distributed or torchrun.

    Raises:
        InputError: an argument cannot be used, or the teacher has fewer dimensions than `transform`.
        ManifestMismatchError: the store is of another run.
        Interrupted: `stop` was requested.
        TeacherError: a teacher's logits have the wrong width, or are NaN, +inf or all -inf (names the samples).
        ImageDecodeError: an image is broken (names the sample).
    """
    counts = {"views": views, "k": k, "size": size, "seed": seed, "ipc": ipc, "num_workers": num_workers}
    counts |= {"decode_batch": decode_batch, "forward_batch": forward_batch}
    check_labelling(store, teachers, policy, {"flip": flip is None or flip, "dry_run": dry_run}, counts)
    wanted = _wanted(k, transform, step, goal, logit_offset)
    if not isinstance(policy, (ViewPolicy, ViewSpec)):
        policy = ViewSpec.of(policy)
    ranks = ranks or Ranks.current()
    place = ranks.device(pick_device(device or "auto"))
    beton = Beton.open(beton)
    models = load_teachers(teachers, place, beton, policy.size if size is None else size, ensemble)
    policy = view_policy(policy, size, seed, flip, models[0].model.spec.size, mixing)
    labelling = Labelling(
        beton=beton,
        ids=choose_samples(beton, ipc, subset, policy.seed if seed is None else seed),
        policy=policy,
        num_views=views,
        k=k,
        forward_batch=FORWARD_BATCH[place.type] if forward_batch is None else forward_batch,
        device=place,
    )
    _advise(models, place)
    with current_device(place), ranks.group(PATIENCE) as connected:
        execution = Execution(connected.workers(num_workers), decode_batch, progress, stop, connected)
        return _run(Path(store), labelling, models, execution, dry_run, wanted)


def _wanted(
    k: int | None, transform: int | None, step: float, goal: Goal | None, logit_offset: bool
) -> Transform | Goal | None:
    """What the tail is to be; None for the top k alone. InputError where the arguments do not fit together."""
    one_of("goal", goal, (Goal, type(None)), "a Goal")
    if goal is not None and transform is not None:
        raise InputError("give either a goal, which chooses the transform, or a transform; not both")
    if k is None and goal is None:
        raise InputError("k is missing: give the number of classes to keep, or a goal that chooses it")
    boolean("logit_offset", logit_offset)
    if logit_offset and goal is None and transform is None:
        raise InputError("logit_offset is of labels with a transform: give --transform, or a goal that chooses one")
    if goal is not None:
        return replace(goal, logit_offset=logit_offset)
    return None if transform is None else Transform.of(transform, step, logit_offset)


def _run(
    path: Path,
    labelling: Labelling,
    teachers: Sequence[Teacher],
    execution: Execution,
    dry_run: bool,
    wanted: Transform | Goal | None,
) -> CacheReport:
    beton, ranks = labelling.beton, execution.ranks
    if ranks.first:
        beton.fingerprint(execution.progress)  # kept in a file, for the ranks that see it
    ranks.agree(None)
    decode_batch = execution.decode_batch or decode_batch_size(labelling.policy, labelling.device)
    images = make_image_loader(beton, labelling.policy, decode_batch, execution.num_workers, labelling.device)
    # Until there is a store, which may be of more segments than this run alone would make.
    alone = [segment_order(labelling.policy, labelling.ids)]
    images.partners = Partners.of(labelling.policy, alone, beton.num_samples)
    codecs: Sequence[TopKCodec] | None = None
    choices: Sequence[Choice] = ()
    if wanted is not None:
        # One rank makes the basis: another one's arithmetic might round differently.
        options = path, labelling, teachers, images, wanted, execution.progress
        made: Any = calibrated_codecs(*options) if ranks.first else None
        codecs, choices = ranks.agree(made)
    manifest = labelling.manifest(teachers, codecs)
    _check_ranks(ranks, manifest)
    growth = plan_growth(path, manifest, labelling.ids)
    forwards = [TeacherForward(*pair, labelling.device) for pair in zip(teachers, manifest.teachers, strict=True)]
    if dry_run:
        report = estimate(path, growth, labelling, images, forwards, execution.progress)
        return replace(report, choices=tuple(choices))
    with ExitStack() as held:
        work: Any = None
        if ranks.first:
            shared = ranks.world_size > 1
            growth = held.enter_context(grown_store(path, manifest, labelling.ids, beton.class_names, shared))
            todo = growth.todo()
            work = (growth.teachers, todo)
        numbers, todo = ranks.agree(work)
        if not ranks.first:
            held.enter_context(writing(path, shared=True))
        target = growth.store if ranks.first and growth.store else LabelStore.open(path)
        images.partners = target.partners
        return _label(target, images, dict(zip(numbers, forwards, strict=True)), todo, execution)


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


def decode_batch_size(policy: ViewPolicy, device: torch.device) -> int:
    """Samples per decode, so that a batch of eight views stays near 16 MB whatever the size of a crop.

    Crops on a GPU take none of the CPU's memory, and its many threads want a few images each. Where views are mixed,
    whole blocks, so that each image is decoded once.
    """
    least = 64 if crops_on_device(device) else 8
    count = max(least, min(512, (16 << 20) // (DECODE_VIEWS * policy.size * policy.size * 3)))
    return count if policy.mixing is None else -(-count // policy.mixing.block) * policy.mixing.block


def _label(
    store: LabelStore,
    images: ImageLoader,
    forwards: dict[int, TeacherForward],
    todo: list[tuple[UnitAddress, list[int]]],
    execution: Execution,
) -> CacheReport:
    """Label this rank's share of the units that lack some teachers, by number, and wait for the other ranks."""
    ranks, stop = execution.ranks, execution.stop
    open_units = [(unit, lacking) for unit, lacking in todo if lacking]
    missing = distinct_crops(open_units)
    there = store.num_views * len(store.ids) - missing
    share = open_units[ranks.rank :: ranks.world_size]
    started = time.monotonic()
    patience = nullcontext() if stop is None else stop.deferred()
    with (
        patience,
        Progress(
            "cache-labels" if ranks.world_size == 1 else f"cache-labels, rank {ranks.rank} of {ranks.world_size}",
            there + passes(share),
            "crops",
            done=there,
            shown=execution.progress,
            row=ranks.local_rank,
        ) as bar,
    ):
        for unit, lacking, labels in label_units(store, share, images, forwards, bar.update, stop):
            if unit is share[0][0]:
                targets = images.beton.targets[store.unit_ids(unit)]
                for number, arrays in zip(lacking, labels, strict=True):
                    warn_of_doubts(forwards[number].info, arrays, targets)
    ranks.agree(None)
    if stop is not None:
        stop.check("all was done by then; nothing is left to label")
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
        units=count_units(store.manifest) * len(teachers),
        units_done=units_done,
        bytes_on_disk=sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        seconds=seconds,
    )
