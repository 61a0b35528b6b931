"""What comes when: the samples and views of every epoch and batch, as a pure function of the epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import InputError
from fastlabel.sampling import random_order, view_of_epoch
from fastlabel.system.arguments import at_least, boolean, integer_between
from fastlabel.views import MAX_SEED, Partners


@dataclass(frozen=True, eq=False)
class Batching:
    """How samples become batches.

    Attributes:
        batch_size: crops in a batch, over all ranks together: a multiple of `views_per_image`.
        views_per_image: crops of each sample in an epoch.
        shuffle: visit the samples in random order.
        drop_last: leave out the last batch when it is smaller.
        seed: of the order of samples and views.
    """

    batch_size: int
    views_per_image: int = 1
    shuffle: bool = True
    drop_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        checked = {
            "batch_size": at_least("batch_size", self.batch_size, 1),
            "views_per_image": at_least("views_per_image", self.views_per_image, 1),
            "shuffle": boolean("shuffle", self.shuffle),
            "drop_last": boolean("drop_last", self.drop_last),
            "seed": integer_between("seed", self.seed, 0, MAX_SEED),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        images_per_batch(self.batch_size, self.views_per_image)

    @property
    def images(self) -> int:
        """Samples in a batch."""
        return images_per_batch(self.batch_size, self.views_per_image)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The batches of all epochs, over all ranks together.

    Attributes:
        ids: int64 [N], the samples that an epoch visits.
        batching: how they become batches.
        num_views: of the store, which epochs take in turns; None where there are as many as one likes.
        partners: who is mixed with whom, where views are mixed: an order that is shuffled keeps them beside each other.
    """

    ids: NDArray[np.int64]
    batching: Batching
    num_views: int | None = None
    partners: Partners | None = None

    def __post_init__(self) -> None:
        if not self.num_batches:
            raise InputError(
                f"drop_last leaves no batch: a batch_size of {self.batching.batch_size} takes "
                f"{self.batching.images} samples, and there are {len(self.ids)}"
            )

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.ids), self.batching.images)
        return full + (1 if rest and not self.batching.drop_last else 0)

    def crops_in(self, batch: int) -> int:
        """Crops in batch 0, 1, ... of an epoch: its length."""
        images = min(self.batching.images, len(self.ids) - batch * self.batching.images)
        return images * self.batching.views_per_image

    def samples(self, epoch: int, after: int = 0) -> NDArray[np.int64]:
        """int64: the samples of an epoch in their order, without those of its first `after` batches."""
        ids = self.ids
        if self.batching.shuffle:
            ids = random_order(ids, self.batching.seed, epoch)
            ids = ids if self.partners is None else beside_partners(ids, self.partners, self.views(epoch))
        return ids[after * self.batching.images : self.num_batches * self.batching.images]

    def views(self, epoch: int) -> list[int]:
        """The views that an epoch shows of each sample, in the order of its crops in a batch."""
        per_image = self.batching.views_per_image
        numbers = range(epoch * per_image, (epoch + 1) * per_image)
        if self.num_views is None:
            return list(numbers)
        return [view_of_epoch(number, self.num_views, self.batching.seed) for number in numbers]


def beside_partners(ids: NDArray[np.int64], partners: Partners, views: list[int]) -> NDArray[np.int64]:
    """`ids` in an order as random as pairs can have it: of one view each sample beside its partner, of several blocks.

    So a batch of an even size, or of a multiple of the block, has both of a pair, and no image is decoded twice. A
    sample that is left over in its block comes last; one whose partner is not among `ids` stays where it is.
    """
    places = np.arange(len(ids))
    if len(views) == 1:
        where = np.full(len(partners.blocks), len(ids))
        where[ids] = places
        met = partners.of_view(views[0])[ids]
        first = np.where(met == ids, len(ids), np.minimum(places, where[met]))
    else:
        blocks = partners.blocks[ids]
        firsts = np.full(int(partners.blocks.max()) + 1, len(ids))
        np.minimum.at(firsts, blocks, places)
        first = firsts[blocks]
    return ids[np.lexsort((places, first))]


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
