"""Whether imported labels belong to the samples that they are given to: what the classes of the samples say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import DatasetError

FEWEST = 16  # labels of a batch, below which chance says nothing
WORDS = "the order of the samples, the seed of the order, or the dataset is another one than that of the labels"


class Alignment:
    """Counts, batch by batch, how often a label's most probable class is that of its sample, or of its partner.

    By chance it would be as often as for another label of the batch. A teacher is better than that.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[str, int, float, float]] = []

    def add(self, where: str, top_B: NDArray[np.int64], targets_BM: NDArray[np.int64]) -> None:
        """The most probable class of each label of a batch, and the classes of the images that its crop shows."""
        hits = (top_B[:, None] == targets_BM).any(axis=1).mean()
        # Every class of a label beside every sample of the batch.
        share = np.bincount(top_B, minlength=int(targets_BM.max(initial=0)) + 1) / max(len(top_B), 1)
        first, other = share[targets_BM[:, 0]], share[targets_BM[:, -1]]
        chance = np.where(targets_BM[:, 0] == targets_BM[:, -1], first, first + other).mean()
        self._batches.append((where, len(top_B), float(hits), float(chance)))

    @property
    def agreement(self) -> float:
        """Share of labels whose most probable class is one that their crop shows."""
        total = sum(count for _, count, _, _ in self._batches)
        return sum(count * hits for _, count, hits, _ in self._batches) / total

    def check(self) -> None:
        """DatasetError where all labels, or those of one batch among better ones, agree no more than by chance."""
        counts, hits, chances = (np.array([batch[at] for batch in self._batches]) for at in (1, 2, 3))
        gain = hits - chances
        overall, chance = self.agreement, float((counts * chances).sum() / counts.sum())
        noise = 3 * np.sqrt(chance * (1 - chance) / counts.sum())
        if counts.sum() >= FEWEST and overall <= chance + noise and chance < 1:
            raise DatasetError(
                f"the most probable class of a label is its sample's in {overall:.1%} of all, by chance it would be in "
                f"{chance:.1%}: {WORDS}; --unaligned imports them all the same"
            )
        usual = float(np.median(gain))
        spread = 3 * np.sqrt(np.maximum(hits * (1 - hits), 1 / counts) / counts)
        bad = np.flatnonzero((counts >= FEWEST) & (gain + spread < usual / 2) & (gain < usual / 4))
        if len(bad):
            first = int(bad[0])
            raise DatasetError(
                f"{self._batches[first][0]}: the most probable class of a label is its sample's in {hits[first]:.1%} "
                f"of its labels, in the others in {float(np.median(hits)):.1%}: it is not the batch of that place; "
                "put the batches back in their order, or import with --unaligned"
            )
