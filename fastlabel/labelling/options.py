"""What a labelling run is asked for: settled once from the arguments of `cache_labels`, then never changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import ids_digest
from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.sampling import images_per_class
from fastlabel.store.manifest import DatasetInfo, Manifest, Segment, Unit
from fastlabel.system.ranks import Ranks
from fastlabel.system.signals import StopRequest
from fastlabel.teachers.recorded import describe
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import Mixing, ViewPolicy, ViewSpec, segment_order

FORWARD_BATCH = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True)
class Labelling:
    """What is labelled and how: all that the bytes of the labels depend on, but for the teachers.

    Attributes:
        ids: samples to label, ascending.
        num_views: crops of each sample, by `policy`.
        k: classes kept of each label; None where a goal chooses it.
        forward_batch: samples in each forward pass.
    """

    beton: Beton
    ids: NDArray[np.int64]
    policy: ViewPolicy
    num_views: int
    k: int | None
    forward_batch: int
    device: torch.device

    def __post_init__(self) -> None:
        if self.num_views < 1:
            raise InputError(f"views {self.num_views} must be at least 1")

    def manifest(self, teachers: Sequence[Teacher], codecs: Sequence[TopKCodec] | None = None) -> Manifest:
        """The manifest of a store of these labels alone. TeacherError for a teacher that does not fit the dataset.

        Args:
            codecs: one for each teacher; default the top k.
        """
        chosen = [None] * len(teachers) if codecs is None else codecs
        infos = tuple(
            describe(one, self.beton, 1 if self.k is None else self.k, self.device, self.forward_batch, codec)
            for one, codec in zip(teachers, chosen, strict=True)
        )
        largest = max(info.codec.nbytes_per_label for info in infos)
        manifest = Manifest(
            DatasetInfo(self.beton.num_samples, self.beton.num_classes, self.beton.fingerprint()),
            (Segment(len(self.ids), ids_digest(segment_order(self.policy, self.ids))),),
            self.policy,
            self.num_views,
            Unit.for_store(self.num_views, len(self.ids), largest),
            infos,
        )
        manifest.validate()
        return manifest


@dataclass(frozen=True)
class Execution:
    """How a run goes about it, without influence on a label.

    Attributes:
        num_workers: threads that decode; 0 takes all cores.
        decode_batch: samples decoded at a time; None chooses by their size.
        progress: whether stderr shows how far the run is.
        stop: asked after each unit.
        ranks: the processes that share the work.
    """

    num_workers: int = 0
    decode_batch: int | None = None
    progress: bool = False
    stop: StopRequest | None = None
    ranks: Ranks = field(default_factory=Ranks)


def view_policy(
    policy: ViewPolicy | ViewSpec | str | os.PathLike[str],
    size: int | None,
    seed: int | None,
    flip: bool | None,
    own_size: int,
    mixing: Mixing | None = None,
) -> ViewPolicy:
    """The policy of a name or a spec, in which arguments win, or the one given, which none may contradict (InputError).

    Args:
        own_size: side in pixels of what the first teacher takes, where no size is said.
    """
    if not isinstance(policy, ViewPolicy):
        spec = policy if isinstance(policy, ViewSpec) else ViewSpec.of(policy)
        return spec.changed(size=size, seed=seed, flip=flip, mixing=mixing).policy(own_size)
    for name, value in (("size", size), ("seed", seed), ("flip", flip), ("mixing", mixing)):
        own = getattr(policy, name)
        if value is not None and value != own:
            raise InputError(f"{name}={value} contradicts the view policy, whose {name} is {own}: leave {name} out")
    return policy


def choose_samples(beton: Beton, ipc: int | None, subset: ArrayLike | None, seed: int) -> NDArray[np.int64]:
    """The samples to label, ascending: of each class `ipc` random ones, or a subset, or all. InputError for neither."""
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
        raise InputError(f"subset ids must be 0 to {beton.num_samples - 1}, found {ids[0]} to {ids[-1]}")
    return ids
