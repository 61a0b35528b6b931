"""SoftLabelLoader: images and their cached soft labels, one epoch after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.digests import canonical_digest, ids_digest
from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.images.device_loader import make_image_loader, own_device
from fastlabel.images.loader import ImageLoader, check_other_size
from fastlabel.loading.batch import Batch
from fastlabel.loading.checks import check_class_map, check_share, check_store
from fastlabel.loading.mixed_targets import partners_and_shares
from fastlabel.loading.plan import Batching, EpochPlan, images_per_batch
from fastlabel.loading.prefetch import PlanePrefetcher
from fastlabel.loading.share import Share
from fastlabel.loading.sizes import SizeSchedule
from fastlabel.loading.state import Place, place_from_dict, place_to_dict
from fastlabel.store.plane import PlaneStack
from fastlabel.store.store import LabelStore
from fastlabel.system.arguments import at_least, integer_between, integer_vector, one_of
from fastlabel.system.devices import pick_device
from fastlabel.views import MAX_VIEW, Partners, ViewPolicy, segment_order

__all__ = ["Batch", "SoftLabelLoader", "images_per_batch"]


class SoftLabelLoader:
    """Iterates over the crops of one view per epoch, together with their cached labels.

    Epoch e takes view number e of a permutation of the store's views by `seed`, cycled, and visits the samples in
    an order given by (seed, e): the same on every machine and for any number of workers. While an epoch runs, the
    next one's labels are read.

    With `views_per_image` M, epoch e takes the views number e * M to e * M + M - 1 of that permutation, and every
    sample has all M in one batch, cut from one decode: for as many crops give an M-th of the epochs.

    `state_dict()` between two batches and `load_state_dict()` in another process continue with exactly the batches
    that were left, for any number of workers or ranks. A loader can be pickled, which keeps that place, and forked: it
    then reads and decodes with threads of the new process. Where it is unpickled it takes the rank and the GPU of that
    process, unless they were given; a process outside any group takes the rank of the one that pickled it.

    With several ranks, every one has the same batches of `batch_size` in the same order, and takes its slice of each:
    of n samples, n // world_size, and one more on the first n % world_size ranks. So all ranks together see each sample
    once, and all have the same number of batches; of a last batch of fewer samples than ranks, some get an empty slice.
    A sample is on one rank with all its crops.

    Args:
        beton: the dataset file, an FFCV `.beton`.
        store: the label store made from it, or None for images without soft labels.
        batch_size: crops per batch, over all ranks together: a multiple of `views_per_image`.
        device: where batches go: "cpu", "cuda", or "auto" for CUDA where there is one. A CUDA device makes the crops
            itself, of whole images that the CPU decodes.
        seed: of the order of samples and views.
        policy: the views, when there is no store; view number e for epoch e (e * M to e * M + M - 1 of M per image).
        indices: int64, the samples to visit; default all that the store labels.
        teacher: which teacher's labels.
        num_workers: threads that decode images; 0 takes all cores.
        shuffle: visit the samples in random order.
        drop_last: leave out the last batch when it is smaller.
        class_map: what `targets` shall say for each class of the dataset; default the class itself.
        rank, world_size: which of how many processes this is, when several share each batch; default those of
            torch.distributed's process group, or what torchrun says.
        views_per_image: crops of each sample in an epoch, at most as many as the store has views.
        size: side of the crops, where it is not that of the views: the same boxes, resized to it. An integer, or sizes
            with their numbers of epochs, "160:16,192:32,224". Erased and mixed boxes are scaled; a blur is not.
        resident_bytes: memory of a CUDA device that decoded images may take for good, if those of all `ids` fit; None
            for an eighth of what is free when an epoch begins, 0 for none.

    Raises:
        InputError: an argument cannot be used.
        ManifestMismatchError: the store was made from another dataset.
        MissingLabelsError: a sample, the teacher or (when an epoch starts) a view has no labels; the teacher lacks
            views that another one of the store has.
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
        rank: int | None = None,
        world_size: int | None = None,
        views_per_image: int = 1,
        size: int | str | None = None,
        resident_bytes: int | None = None,
    ) -> None:
        # As they were given: another process that unpickles this loader has a rank and a GPU of its own.
        self._asked: dict[str, Any] = {
            "device": device,
            "rank": rank,
            "world_size": world_size,
            "resident_bytes": resident_bytes,
        }
        self.batching = Batching(batch_size, views_per_image, shuffle, drop_last, seed)
        self.share = Share.choose(rank, world_size)
        check_share(self.batching, self.share)
        one_of("beton", beton, (Beton, str, os.PathLike), "a path or a Beton")
        one_of("store", store, (LabelStore, str, os.PathLike, type(None)), "a path, a LabelStore or None")
        one_of("policy", policy, (ViewPolicy, type(None)), "a ViewPolicy")
        self.beton = Beton.open(beton)
        self.store = LabelStore.open(store) if isinstance(store, (str, os.PathLike)) else store
        self.device, self.teacher = own_device(pick_device(device)), at_least("teacher", teacher, 0)
        if (self.store is None) == (policy is None):
            raise InputError("give either a store, which brings its views, or a policy; not both")
        if self.store is not None:
            check_store(self.store, self.beton, self.teacher, self.batching)
        self.policy = self.store.views if self.store else policy
        assert self.policy is not None
        self._class_map = check_class_map(class_map, self.beton.num_classes)
        ids = self._choose(indices)
        partners = self.store.partners if self.store else _partners(self.policy, ids, self.beton.num_samples)
        self.plan = EpochPlan(ids, self.batching, self.store.num_views if self.store else None, partners)
        self.num_workers = at_least("num_workers", num_workers, 0)
        self.sizes = SizeSchedule.of(self.policy.size if size is None else size)
        for one in self.sizes.sizes:
            check_other_size(self.policy, one)
        if resident_bytes is not None:
            resident_bytes = at_least("resident_bytes", resident_bytes, 0)
        self._resident_bytes = resident_bytes
        self._images = self._make_images(self.sizes.at(0))
        self._planes = PlanePrefetcher(self.store, self.beton, self.teacher, self.device) if self.store else None
        self._next = self._place = Place(0)

    def _make_images(self, size: int) -> ImageLoader:
        assert self.policy is not None
        # No larger than what there is: its memory is taken at once.
        share = min(self.share.count(self.batching.images), len(self.ids))
        partners = self.plan.partners
        # Of all ids: with several ranks, or drop_last, each epoch takes others of them.
        staying = self.ids if partners is None else partners.with_partners(self.ids)
        images = make_image_loader(
            self.beton, self.policy, share, self.num_workers, self.device, self._resident_bytes, staying, size
        )
        images.partners = partners
        return images

    @property
    def ids(self) -> NDArray[np.int64]:
        """int64 [N]: the samples that an epoch visits, by index in the dataset file."""
        return self.plan.ids

    @property
    def batch_size(self) -> int:
        """Crops per batch, over all ranks together."""
        return self.batching.batch_size

    @property
    def dataset(self) -> Beton:
        """The dataset file, as training loops ask a DataLoader for it."""
        return self.beton

    @property
    def sampler(self) -> SoftLabelLoader:
        """What a training loop calls `set_epoch` of, as of a DataLoader's DistributedSampler: this loader itself."""
        return self

    @property
    def num_classes(self) -> int:
        """The classes of its labels, or of the dataset where it gives none."""
        if self.store is None:
            return self.beton.num_classes
        return self.store.manifest.teachers[self.teacher].codec.num_classes

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.plan.num_batches

    def __repr__(self) -> str:
        labels = "no soft labels" if self.store is None else f"labels of {self.store.path}, teacher {self.teacher}"
        of_ranks = f", rank {self.share.rank} of {self.share.world_size}" if self.share.world_size > 1 else ""
        return (
            f"SoftLabelLoader({len(self)} batches of {self.batch_size} crops of {self.beton.path}, "
            f"{labels}, on {self.device}{of_ranks})"
        )

    def samples_in(self, batch: int) -> int:
        """Crops in batch 0, 1, ... of an epoch, over all ranks together: its length."""
        return self.plan.crops_in(batch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration gives; without it, one follows another.

        After `load_state_dict` in the middle of this very epoch, only what was left of it comes.
        """
        epoch = integer_between("epoch", epoch, 0, MAX_VIEW)
        if epoch != self._next.epoch:
            self._next = Place(epoch)
        if not self._place.running:
            self._place = self._next

    def view(self, epoch: int) -> int:
        """The view that an epoch shows, of a loader that shows one: see `views`."""
        if self.batching.views_per_image > 1:
            raise InputError(
                f"an epoch shows {self.batching.views_per_image} views of each image: ask for views({epoch})"
            )
        return self.views(epoch)[0]

    def views(self, epoch: int) -> list[int]:
        """The views that an epoch shows of each sample, in the order of its crops in a batch."""
        return self.plan.views(integer_between("epoch", epoch, 0, MAX_VIEW))

    def read(self, ids: ArrayLike, epoch: int) -> Batch:
        """The crops of any samples, in any order, as that epoch shows them: at most as many as a batch has.

        Raises:
            InputError: an id is not in the dataset file, or there are too many.
            MissingLabelsError: a sample has no labels.
        """
        views = self.views(epoch)
        crops = self._images_at(epoch).decode(ids, views)
        planes = self._planes.get(views) if self._planes is not None else None
        return self._batch(crops.ids, crops.images, planes, views)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iteration stands: how many batches of which epoch were handed out, and of which loader.

        A few integers, flags and digests, fit for JSON; the same on every rank. At the end of an epoch, once the
        iteration has ended, it stands at the beginning of the next one.
        """
        return place_to_dict(self._place, self._identity)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration give exactly the batches that were left when `state` was taken.

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
            "seed": self.batching.seed,
            "batch_size": self.batching.batch_size,
            "views_per_image": self.batching.views_per_image,
            "shuffle": self.batching.shuffle,
            "drop_last": self.batching.drop_last,
            "dataset": self.beton.fingerprint(),
            "samples": ids_digest(self.ids),
            "policy": canonical_digest(self.policy.to_dict()),
            "views": self.store.num_views if self.store else 0,
            "labels": self.store.manifest.digest(self.teacher) if self.store else "",
            **({} if self.sizes.sizes == (self.policy.size,) else {"size": str(self.sizes)}),
        }

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to make the same loader, and the place where it goes on."""
        return {
            "arguments": {
                "beton": self.beton.path,
                "store": self.store.path if self.store else None,
                "batch_size": self.batching.batch_size,
                "seed": self.batching.seed,
                "policy": None if self.store else self.policy,
                "indices": self.ids,
                "teacher": self.teacher,
                "num_workers": self.num_workers,
                "shuffle": self.batching.shuffle,
                "drop_last": self.batching.drop_last,
                "class_map": self._class_map,
                "views_per_image": self.batching.views_per_image,
                "size": str(self.sizes),
                **self._asked,
            },
            "share": (self.share.rank, self.share.world_size),
            "place": (self._place.epoch, self._place.batches),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        asked = state["arguments"]
        share = Share.choose(asked["rank"], asked["world_size"])
        if share.world_size == 1:  # a worker outside any group works for the rank that sent it
            share = Share(*state["share"])
        self.__init__(**asked | {"rank": share.rank, "world_size": share.world_size})  # type: ignore[misc]
        self._asked |= {"rank": asked["rank"], "world_size": asked["world_size"]}
        self._next = self._place = Place(*state["place"])

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
        """The batches of an epoch after those that `place` has behind it; `place` keeps up with them."""
        ids = self.plan.samples(place.epoch, place.batches)
        if not len(ids):
            return
        views, planes = self.views(place.epoch), None
        if self._planes is not None:
            planes = self._planes.get(views)
            self._planes.prefetch(self.views(place.epoch + 1))
        with self._images_at(place.epoch).epoch(self.share.of(ids, self.batching.images), views) as batches:
            for batch in batches:
                place.batches += 1
                yield self._batch(batch.ids, batch.images, planes, views)
        if place.batches < len(self):
            # Fewer samples than ranks were left: the ranks without one have a batch nevertheless.
            place.batches += 1
            size = self._images.size
            crops = torch.empty((0, self.batching.views_per_image, size, size, 3), dtype=torch.uint8)
            yield self._batch(ids[:0], crops, planes, views)

    def _images_at(self, epoch: int) -> ImageLoader:
        """What makes the crops, of the size that this epoch has."""
        if self._images.size != self.sizes.at(epoch):
            self._images = self._make_images(self.sizes.at(epoch))
        return self._images

    def _batch(
        self, ids: NDArray[np.int64], images_BVHWC: Tensor, planes: PlaneStack | None, views: list[int]
    ) -> Batch:
        images = images_BVHWC.flatten(0, 1).permute(0, 3, 1, 2).to(self.device)
        # Read from pageable memory before the call returns, but not waiting for what the GPU still has to do.
        there = self.device.type == "cuda"
        index = torch.from_numpy(ids).to(self.device, non_blocking=there)
        targets = torch.from_numpy(self._targets[ids]).to(self.device, non_blocking=there)
        labels = planes.take(index) if planes else None
        per_image = self.batching.views_per_image
        if per_image > 1:
            index, targets = (values.repeat_interleave(per_image) for values in (index, targets))
        if self.plan.partners is None:
            return Batch(images, labels, targets, index)
        partners, shares = partners_and_shares(self.plan.partners, views, ids, self._images.policy.size)
        second, own = torch.from_numpy(self._targets[partners]), torch.from_numpy(shares)
        return Batch(images, labels, targets, index, second.to(self.device), own.to(self.device))

    @cached_property
    def _targets(self) -> NDArray[np.int64]:
        return self.beton.targets if self._class_map is None else self._class_map[self.beton.targets]

    def _choose(self, indices: ArrayLike | None) -> NDArray[np.int64]:
        known = self.store.ids if self.store else np.arange(self.beton.num_samples, dtype=np.int64)
        if indices is None:
            return known
        chosen = integer_vector("indices", indices)
        if not chosen.size:
            raise InputError("indices must be a list of sample ids, not empty")
        missing = chosen[~np.isin(chosen, known)]
        if missing.size:
            where = "labelled in this store" if self.store else f"in {self.beton.path}"
            raise MissingLabelsError(f"{missing.size} of the indices are not {where}, for example sample {missing[0]}")
        return chosen


def _partners(policy: ViewPolicy, ids: NDArray[np.int64], num_samples: int) -> Partners | None:
    """Those of samples that no store has: all that are visited are one segment."""
    return Partners.of(policy, [segment_order(policy, np.unique(ids))], num_samples)
