"""The basis of a teacher's labels, from its logits of some crops of the run: the same whenever it is made again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.images.loader import ImageLoader
from fastlabel.kernels.transform import LARGEST_CODE, largest_coefficients
from fastlabel.labelling.codec_choice import Choice, Goal, of_transform, try_codecs
from fastlabel.labelling.forward import CanonicalBatches, TeacherForward
from fastlabel.labelling.options import Labelling
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.information import true_information_kept
from fastlabel.labels.transform_codec import TEMPERATURES, TransformCodec
from fastlabel.sampling import random_order
from fastlabel.store.manifest import DECODE_VIEWS
from fastlabel.store.store import LabelStore
from fastlabel.system.arguments import at_least
from fastlabel.system.progress import Progress
from fastlabel.teachers.recorded import describe
from fastlabel.teachers.teacher import Teacher

CROPS_PER_CLASS, LEAST_CROPS, MOST_CROPS = 4, 1024, 4096
DEFAULT_STEP = 4.0  # nats
TESTED = 5  # one sample of so many is kept for the test
SATURATED_ROWS = 0.01  # of the calibration crops: so many may have a code that leaves its byte


@dataclass(frozen=True)
class Transform:
    """What is asked for: R components, the step of their codes in nats, and whether to keep the mean logit."""

    components: int
    step: float
    logit_offset: bool = False

    @classmethod
    def of(cls, components: int, step: float, logit_offset: bool = False) -> Transform:
        """InputError for numbers that no codec takes."""
        at_least("transform", components, 1)
        if not isinstance(step, (int, float)) or not 0 < step < math.inf:
            raise InputError(f"step is {step!r}, expected a positive finite number of nats")
        return cls(components, float(step), logit_offset)


def calibrated_codecs(
    path: Path,
    labelling: Labelling,
    teachers: Sequence[Teacher],
    images: ImageLoader,
    wanted: Transform | Goal,
    progress: bool = False,
) -> tuple[list[TopKCodec], list[Choice]]:
    """The codec of each teacher: as the store at `path` has it, or made from calibration crops.

    A store keeps the codecs that a goal chose when it began. Also what was tried for the first teacher, for a goal.

    Raises:
        InputError: a teacher's logits have fewer dimensions than components were asked for, or no codec meets a goal.
        TeacherError, ImageDecodeError: as labelling does.
    """
    known = LabelStore.open(path).manifest.teachers if path.exists() else ()
    found: list[TopKCodec] = []
    tried: list[Choice] = []
    for teacher in teachers:
        info = describe(
            teacher,
            labelling.beton,
            1 if labelling.k is None else labelling.k,
            labelling.device,
            labelling.forward_batch,
        )
        stored = next((one.codec for one in known if one.sha256 == info.sha256), None)
        if stored is None:
            forward = TeacherForward(teacher, info, labelling.device)
            codec, choices = _calibrate(labelling, images, forward, wanted, progress)
            found.append(codec)
            tried = tried or choices
        else:
            found.append(_as_stored(stored, labelling.k, wanted))
    return found, tried


def _as_stored(stored: TopKCodec, k: int | None, wanted: Transform | Goal) -> TopKCodec:
    """What is asked for with the store's basis; where it is something else, comparing the manifests says so."""
    if isinstance(wanted, Goal):
        stored = stored if k is None else replace(stored, k=k)
        return replace(stored, logit_offset=wanted.logit_offset) if isinstance(stored, TransformCodec) else stored
    assert k is not None
    digest, kept, basis = "", tuple[float, ...](), None
    if isinstance(stored, TransformCodec):
        digest, kept, basis = stored.basis_digest, stored.information_kept, stored.basis
    own = wanted.components, wanted.step, digest, kept, wanted.logit_offset
    return TransformCodec(k, stored.num_classes, *own, basis)


def calibration_samples(ids: NDArray[np.int64], num_views: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    """Samples whose first views are calibrated on, in random order: crops enough for the classes, or all there are."""
    crops = min(max(LEAST_CROPS, CROPS_PER_CLASS * num_classes), MOST_CROPS)
    order = random_order(ids, seed, 0)
    return order[: -(-crops // min(num_views, DECODE_VIEWS))]


def _calibrate(
    labelling: Labelling, images: ImageLoader, forward: TeacherForward, wanted: Transform | Goal, progress: bool
) -> tuple[TransformCodec, list[Choice]]:
    views = range(min(labelling.num_views, DECODE_VIEWS))
    num_classes = forward.info.codec.num_classes
    ids = calibration_samples(labelling.ids, labelling.num_views, num_classes, labelling.policy.seed)
    logits_VNC = calibration_logits(images, forward, ids, views, progress)
    k, choices = labelling.k, list[Choice]()
    if isinstance(wanted, Goal):
        k, wanted, choices = _choose(logits_VNC, k, wanted)
    assert k is not None
    basis = TransformBasis.from_logits(logits_VNC.flatten(0, 1), wanted.components)
    codec = TransformCodec.of(basis, k, wanted.step, _information_kept(logits_VNC, k, wanted), wanted.logit_offset)
    _check_step(codec, logits_VNC.flatten(0, 1))
    return codec, choices


def _choose(logits_VNC: Tensor, k: int | None, goal: Goal) -> tuple[int, Transform, list[Choice]]:
    tested = logits_VNC.shape[1] // TESTED
    if not tested:
        raise InputError(
            f"a goal is tried on a fifth of the samples: {logits_VNC.shape[1]} are too few; give --transform"
        )
    choices = try_codecs(logits_VNC[:, tested:].flatten(0, 1), logits_VNC[:, :tested].flatten(0, 1), goal, k)
    best = goal.best(of_transform(choices))
    assert best.components is not None and best.step is not None
    return best.k, Transform(best.components, best.step, goal.logit_offset), choices


def _check_step(codec: TransformCodec, logits_MC: Tensor) -> None:
    """InputError where a byte is too small for so fine a step."""
    largest = largest_coefficients(logits_MC, codec.own_basis.mean, codec.own_basis.components).quantile(
        1 - SATURATED_ROWS
    )
    least = float(largest) / LARGEST_CODE
    if codec.step < least:
        raise InputError(
            f"step {codec.step} is too fine: codes of more than {SATURATED_ROWS:.0%} of the calibration crops leave "
            f"a byte; give {least:.3g} or more"
        )


def calibration_logits(
    images: ImageLoader, forward: TeacherForward, ids: NDArray[np.int64], views: range, progress: bool = False
) -> Tensor:
    """A teacher's logits of some samples under some views, float32 [V, N, C] on the CPU."""
    batches = CanonicalBatches(len(views), forward.batch, images.policy.size, images.device)
    found = torch.empty((len(views), len(ids), forward.info.codec.num_classes))
    with (
        images.epoch(ids, views) as epoch,
        Progress(f"calibrate {forward.info.name}", len(ids) * len(views), "crops", shown=progress) as bar,
    ):
        for stage_VBHWC, batch_ids, start in batches.regroup(epoch):
            for at, stage_BHWC in enumerate(stage_VBHWC):
                found[at, start : start + len(batch_ids)] = forward.checked_logits(stage_BHWC, batch_ids, views[at])
                bar.update(len(batch_ids))
    return found


def _information_kept(logits_VNC: Tensor, k: int, wanted: Transform) -> tuple[float, ...]:
    """What labels keep at each of TEMPERATURES, on a fifth of the samples by a basis of the others; () for too few."""
    tested = logits_VNC.shape[1] // TESTED
    fitted_MC = logits_VNC[:, tested:].flatten(0, 1)
    if not tested or len(fitted_MC) <= wanted.components:
        return ()
    codec = TransformCodec.of(TransformBasis.from_logits(fitted_MC, wanted.components), k, wanted.step)
    tested_MC = logits_VNC[:, :tested].flatten(0, 1)
    labels = codec.encode(tested_MC)
    return tuple(round(true_information_kept(tested_MC, labels, float(T)), 4) for T in TEMPERATURES)
