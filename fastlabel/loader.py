"""SoftLabelLoader: images and their cached soft labels, one epoch after another."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError
from fastlabel.images.beton import Beton
from fastlabel.images.load import ImageLoader
from fastlabel.labels import TopKLabels
from fastlabel.plane import LabelPlane
from fastlabel.store import LabelStore
from fastlabel.views import ViewPolicy, random_order, view_of_epoch

KEEP_PLANES_BYTES = 256 << 20


@dataclass(frozen=True)
class Batch:
    """B crops and their labels. Valid as long as it, or any tensor of it, is held.

    Attributes:
        images: uint8 [B, 3, S, S], channels last in memory; the models of fastlabel normalise them themselves.
        labels: soft labels of these very crops; None for a loader without a store.
        targets: int64 [B], hard labels.
        ids: int64 [B], index of each sample in the dataset file.
    """

    images: Tensor
    labels: TopKLabels | None
    targets: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class SoftLabelLoader:
    """Iterates over the crops of one view per epoch, together with their cached labels.

    Epoch e takes view number e of a permutation of the store's views by ``seed``, cycled, and visits the samples in
    an order given by (seed, e): the same on every machine and for any number of workers. While an epoch runs, the
    next one's labels are read.

    Args:
        beton: the dataset file, an FFCV ``.beton``.
        store: the label store made from it, or None for images without soft labels.
        batch_size: samples per batch.
        device: where batches go.
        seed: of the order of samples and views.
        policy: the views, when there is no store; view number e for epoch e.
        indices: int64, the samples to visit; default all that the store labels.
        teacher: which teacher's labels.
        num_workers: threads that decode images; 0 takes all cores.
        shuffle: visit the samples in random order.
        drop_last: leave out the last batch when it is smaller.

    Raises:
        ManifestMismatchError: the store was made from another dataset.
        MissingLabelsError: a sample, the teacher or (when an epoch starts) a view has no labels.
    """

    def __init__(
        self,
        beton: Beton | str | os.PathLike[str],
        store: LabelStore | str | os.PathLike[str] | None,
        batch_size: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        *,
        policy: ViewPolicy | None = None,
        indices: ArrayLike | None = None,
        teacher: int = 0,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.beton = Beton.open(beton)
        self.store = LabelStore.open(store) if isinstance(store, (str, os.PathLike)) else store
        self.batch_size, self.device, self.seed, self.teacher = batch_size, torch.device(device), seed, teacher
        self.shuffle, self.drop_last = shuffle, drop_last
        if (self.store is None) == (policy is None):
            raise InputError("give either a store, which brings its views, or a policy; not both")
        if self.store is not None:
            self.store.check_teacher(teacher)
            check_dataset(self.store, self.beton)
        self.policy = self.store.views if self.store else policy
        self.ids = self._choose(indices)
        assert self.policy is not None
        self._images = ImageLoader(self.beton, self.policy, batch_size, num_workers)
        self._planes = _Planes(self.store, self.beton, teacher, self.device) if self.store else None
        self._epoch = 0

    @property
    def num_classes(self) -> int:
        return self.store.num_classes if self.store else self.beton.num_classes

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.ids), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration gives; without it, one follows another."""
        if epoch < 0:
            raise InputError(f"epoch {epoch} must not be negative")
        self._epoch = epoch

    def view(self, epoch: int) -> int:
        """The view that an epoch shows."""
        return view_of_epoch(epoch, self.store.num_views, self.seed) if self.store else epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        ids = random_order(self.ids, self.seed, epoch) if self.shuffle else self.ids
        if self.drop_last:
            ids = ids[: len(self) * self.batch_size]
        plane = None
        if self._planes is not None:
            plane = self._planes.get(self.view(epoch))
            self._planes.prefetch(self.view(epoch + 1))
        with self._images.epoch(ids, [self.view(epoch)]) as batches:
            for batch in batches:
                yield self._batch(batch.ids, batch.images, plane)

    def _batch(self, ids: NDArray[np.int64], images_BVHWC: Tensor, plane: LabelPlane | None) -> Batch:
        images = images_BVHWC[:, 0].permute(0, 3, 1, 2).to(self.device)
        index = torch.from_numpy(ids).to(self.device)
        targets = torch.from_numpy(self.beton.targets[ids]).to(self.device)
        return Batch(images, plane.take(index) if plane else None, targets, index)

    def _choose(self, indices: ArrayLike | None) -> NDArray[np.int64]:
        known = self.store.ids if self.store else np.arange(self.beton.num_samples, dtype=np.int64)
        if indices is None:
            return known
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
            raise InputError(f"indices must be a list of sample ids, not empty; got {chosen.dtype} {chosen.shape}")
        chosen = chosen.astype(np.int64)
        missing = chosen[~np.isin(chosen, known)]
        if missing.size:
            where = "labelled in this store" if self.store else f"in {self.beton.path}"
            raise MissingLabelsError(f"{missing.size} of the indices are not {where}, sample {missing[0]} for one")
        return chosen


def check_dataset(store: LabelStore, beton: Beton) -> None:
    """ManifestMismatchError unless the store was made from this dataset file."""
    wanted = store.manifest.dataset
    found = (beton.num_samples, beton.fingerprint())
    if found != (wanted.num_samples, wanted.fingerprint):
        raise ManifestMismatchError(
            f"{store.path} holds labels of another dataset than {beton.path}: {wanted.num_samples} samples with the "
            f"fingerprint {wanted.fingerprint[:12]}, not {found[0]} with {found[1][:12]}"
        )


class _Planes:
    """Planes of one teacher, read ahead by a thread: small ones a unit at once, large ones singly.

    As many are kept as fit into ``KEEP_PLANES_BYTES``, and two at least.
    """

    def __init__(self, store: LabelStore, beton: Beton, teacher: int, device: torch.device) -> None:
        self._store, self._beton, self._teacher, self._device = store, beton, teacher, device
        label_bytes = store.manifest.samples.count * store.manifest.teachers[teacher].codec.nbytes_per_label
        fit = KEEP_PLANES_BYTES // max(1, label_bytes)
        # A read has a fixed cost of some milliseconds, which a small plane alone does not earn back.
        unit = store.manifest.unit.views
        self._group = unit if fit >= 2 * unit else 1
        self._keep = max(2, fit // self._group)
        self._pending: OrderedDict[int, Future[list[LabelPlane]]] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fastlabel-planes")

    def prefetch(self, view: int) -> None:
        group = view // self._group
        known = self._pending.get(group)
        # A view that was not there when it was read ahead may be by now.
        if known is None or (known.done() and known.exception() is not None):
            self._pending[group] = self._pool.submit(self._read, group)
        self._pending.move_to_end(group)
        while len(self._pending) > self._keep:
            self._pending.popitem(last=False)

    def get(self, view: int) -> LabelPlane:
        self.prefetch(view)
        try:
            return self._pending[view // self._group].result()[view % self._group]
        except BaseException:
            # The next try shall look again: a run may be labelling these views right now.
            self._pending.pop(view // self._group, None)
            raise

    def _read(self, group: int) -> list[LabelPlane]:
        start = group * self._group
        views = range(start, min(start + self._group, self._store.num_views))
        for view in views:
            self._store.check_boxes(view, self._beton.heights, self._beton.widths, self._teacher)
        return self._store.planes(views, self._teacher, self._device)
