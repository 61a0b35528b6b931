"""SoftLabelLoader: images and their cached soft labels, one epoch after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.digests import canonical_digest, ids_digest
from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError
from fastlabel.images.device_loader import make_image_loader, own_device
from fastlabel.labels.topk import TopKLabels
from fastlabel.loading.prefetch import PlanePrefetcher
from fastlabel.loading.state import Place, place_from_dict, place_to_dict
from fastlabel.sampling import random_order, view_of_epoch
from fastlabel.store.plane import PlaneStack
from fastlabel.store.store import LabelStore
from fastlabel.views import ViewPolicy


@dataclass(frozen=True)
class Batch:
    """B crops and their labels. Valid as long as it, or any tensor of it, is held.

    Of a loader with M views per image, M crops of each sample next to each other.

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

    With ``views_per_image`` M, epoch e takes the views number e * M to e * M + M - 1 of that permutation, and every
    sample has all M in one batch, cut from one decode: for as many crops give an M-th of the epochs.

    ``state_dict()`` between two batches and ``load_state_dict()`` in another process continue with exactly the batches
    that were left, for any number of workers or ranks.

    With several ranks, every one has the same batches of ``batch_size`` in the same order, and takes its slice of each:
    of n samples, n // world_size, and one more on the first n % world_size ranks. So all ranks together see each sample
    once, and all have the same number of batches; of a last batch of fewer samples than ranks, some get an empty slice.
    A sample is on one rank with all its crops.

    Args:
        beton: the dataset file, an FFCV ``.beton``.
        store: the label store made from it, or None for images without soft labels.
        batch_size: crops per batch, over all ranks together: a multiple of ``views_per_image``.
        device: where batches go. A CUDA device makes the crops itself, of whole images that the CPU decodes.
        seed: of the order of samples and views.
        policy: the views, when there is no store; view number e for epoch e (e * M to e * M + M - 1 of M per image).
        indices: int64, the samples to visit; default all that the store labels.
        teacher: which teacher's labels.
        num_workers: threads that decode images; 0 takes all cores.
        shuffle: visit the samples in random order.
        drop_last: leave out the last batch when it is smaller.
        class_map: what ``targets`` shall say for each class of the dataset; default the class itself.
        rank, world_size: which of how many processes this is, when several share each batch.
        views_per_image: crops of each sample in an epoch, at most as many as the store has views.

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
        class_map: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        views_per_image: int = 1,
    ) -> None:
        self.beton = Beton.open(beton)
        self.store = LabelStore.open(store) if isinstance(store, (str, os.PathLike)) else store
        self.batch_size, self.device, self.seed, self.teacher = batch_size, own_device(device), seed, teacher
        self.shuffle, self.drop_last = shuffle, drop_last
        self.views_per_image = views_per_image
        self.images_per_batch = images_per_batch(batch_size, views_per_image)
        self._targets = self.beton.targets if class_map is None else np.asarray(class_map, np.int64)[self.beton.targets]
        self.rank, self.world_size = rank, world_size
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} must be 0 to {world_size - 1}: there are {world_size} of them")
        if 1 <= self.images_per_batch < world_size:
            shown = f" with {views_per_image} crops of each sample" if views_per_image > 1 else ""
            raise InputError(
                f"a batch_size of {batch_size}{shown} leaves some of the {world_size} ranks without a sample"
            )
        if (self.store is None) == (policy is None):
            raise InputError("give either a store, which brings its views, or a policy; not both")
        if self.store is not None:
            self.store.check_teacher(teacher)
            check_dataset(self.store, self.beton)
            if views_per_image > self.store.num_views:
                raise InputError(
                    f"views_per_image {views_per_image} is more than the {self.store.num_views} views of "
                    f"{self.store.path}: an epoch takes different views of an image"
                )
        self.policy = self.store.views if self.store else policy
        self.ids = self._choose(indices)
        assert self.policy is not None
        share = len(range(rank, self.images_per_batch, world_size))
        self._images = make_image_loader(self.beton, self.policy, share, num_workers, self.device)
        self._planes = PlanePrefetcher(self.store, self.beton, teacher, self.device) if self.store else None
        self._next = self._place = Place(0)

    @property
    def num_classes(self) -> int:
        """The classes of its labels, or of the dataset where it gives none."""
        if self.store is None:
            return self.beton.num_classes
        return self.store.manifest.teachers[self.teacher].codec.num_classes

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.ids), self.images_per_batch)
        return full + (1 if rest and not self.drop_last else 0)

    def samples_in(self, batch: int) -> int:
        """Crops in batch 0, 1, ... of an epoch, over all ranks together: its length."""
        images = min(self.images_per_batch, len(self.ids) - batch * self.images_per_batch)
        return images * self.views_per_image

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration gives; without it, one follows another.

        After ``load_state_dict`` in the middle of this very epoch, only what was left of it comes.
        """
        if epoch < 0:
            raise InputError(f"epoch {epoch} must not be negative")
        if epoch != self._next.epoch:
            self._next = Place(epoch)
        if not self._place.running:
            self._place = self._next

    def view(self, epoch: int) -> int:
        """The view that an epoch shows, of a loader that shows one: see :meth:`views`."""
        if self.views_per_image > 1:
            raise InputError(f"an epoch shows {self.views_per_image} views of each image: ask for views({epoch})")
        return self.views(epoch)[0]

    def views(self, epoch: int) -> list[int]:
        """The views that an epoch shows of each sample, in the order of its crops in a batch."""
        numbers = range(epoch * self.views_per_image, (epoch + 1) * self.views_per_image)
        if self.store is None:
            return list(numbers)
        return [view_of_epoch(number, self.store.num_views, self.seed) for number in numbers]

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iteration stands: how many batches of which epoch were handed out, and of which loader.

        A few integers, flags and digests, fit for JSON; the same on every rank. At the end of an epoch, once the
        iteration has ended, it stands at the beginning of the next one.
        """
        return place_to_dict(self._place, self._identity)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration give exactly the batches that were left when ``state`` was taken.

        None, where the last batch had been handed out but the iteration had not ended. Later epochs follow. Nothing
        is decoded of what was handed out.

        Raises:
            InputError: not a state of this version, or that of a loader with other data, labels, views, samples,
                order or batches.
        """
        self._next = self._place = place_from_dict(state, self._identity, len(self))

    @cached_property
    def _identity(self) -> dict[str, Any]:
        assert self.policy is not None
        return {
            "seed": int(self.seed),
            "batch_size": int(self.batch_size),
            "views_per_image": int(self.views_per_image),
            "shuffle": bool(self.shuffle),
            "drop_last": bool(self.drop_last),
            "dataset": self.beton.fingerprint(),
            "samples": ids_digest(self.ids),
            "policy": canonical_digest(self.policy.to_dict()),
            "views": self.store.num_views if self.store else 0,
            "labels": self.store.manifest.digest(self.teacher) if self.store else "",
        }

    def __iter__(self) -> Iterator[Batch]:
        place = self._place = self._next
        self._next = Place(place.epoch + 1)
        place.running = True
        try:
            yield from self._batches(place)
        finally:
            place.running = False
        if self._place is place:
            self._place = self._next

    def _batches(self, place: Place) -> Iterator[Batch]:
        """The batches of an epoch after those that ``place`` has behind it; ``place`` keeps up with them."""
        ids = random_order(self.ids, self.seed, place.epoch) if self.shuffle else self.ids
        ids = ids[place.batches * self.images_per_batch : len(self) * self.images_per_batch]
        if not len(ids):
            return
        views, planes = self.views(place.epoch), None
        if self._planes is not None:
            planes = self._planes.get(views)
            self._planes.prefetch(self.views(place.epoch + 1))
        with self._images.epoch(_share(ids, self.images_per_batch, self.rank, self.world_size), views) as batches:
            for batch in batches:
                place.batches += 1
                yield self._batch(batch.ids, batch.images, planes)
        if place.batches < len(self):
            # Fewer samples than ranks were left: the ranks without one have a batch nevertheless.
            place.batches += 1
            size = self._images.policy.size
            crops = torch.empty((0, self.views_per_image, size, size, 3), dtype=torch.uint8)
            yield self._batch(ids[:0], crops, planes)

    def _batch(self, ids: NDArray[np.int64], images_BVHWC: Tensor, planes: PlaneStack | None) -> Batch:
        images = images_BVHWC.flatten(0, 1).permute(0, 3, 1, 2).to(self.device)
        # Read from pageable memory before the call returns, but not waiting for what the GPU still has to do.
        there = self.device.type == "cuda"
        index = torch.from_numpy(ids).to(self.device, non_blocking=there)
        targets = torch.from_numpy(self._targets[ids]).to(self.device, non_blocking=there)
        labels = planes.take(index) if planes else None
        if self.views_per_image > 1:
            index, targets = (values.repeat_interleave(self.views_per_image) for values in (index, targets))
        return Batch(images, labels, targets, index)

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


def images_per_batch(batch_size: int, views_per_image: int) -> int:
    """Samples in a batch of that many crops; InputError where that is not a whole number."""
    if views_per_image < 1:
        raise InputError(f"views_per_image {views_per_image} must be at least 1")
    images, rest = divmod(batch_size, views_per_image)
    if rest:
        raise InputError(
            f"a batch_size of {batch_size} crops is not a multiple of views_per_image {views_per_image}: "
            f"take {batch_size - rest + views_per_image}"
        )
    return images


def _share(ids: NDArray[np.int64], batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """What one rank takes of each batch of ``batch_size`` samples, one batch after another."""
    whole = len(ids) // batch_size * batch_size
    parts = (ids[:whole].reshape(-1, batch_size), ids[None, whole:])
    return np.concatenate([np.array_split(part, world_size, axis=1)[rank].ravel() for part in parts])


def check_dataset(store: LabelStore, beton: Beton) -> None:
    """ManifestMismatchError unless the store was made from this dataset file."""
    wanted = store.manifest.dataset
    found = (beton.num_samples, beton.fingerprint())
    if found != (wanted.num_samples, wanted.fingerprint):
        raise ManifestMismatchError(
            f"{store.path} holds labels of another dataset than {beton.path}: {wanted.num_samples} samples with the "
            f"fingerprint {wanted.fingerprint[:12]}, not {found[0]} with {found[1][:12]}"
        )
