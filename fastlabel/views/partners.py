"""Who is mixed with whom, and how: pure in (seed, view, sample), among samples that came into a store together.

The samples of a segment stand in an order that is shuffled once, by the seed. It is cut into blocks, and every view
draws new pairs in each block. So both of a pair are near each other wherever that order is followed, and what is
labelled later changes no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.kernels.view_boxes import random_keys
from fastlabel.views.mixing import LAMBDAS, ONE_Q16, Mixing
from fastlabel.views.policy import ViewPolicy
from fastlabel.views.stored import BOX_COLUMNS

# Of the random numbers; 0 to 3 are those of boxes, orders and shuffled labels.
STREAM_SEGMENT, STREAM_PAIRS, STREAM_DRAW, STREAM_CENTRE = 4, 5, 6, 7
VIEWS_KEPT = 8


def segment_order(policy: ViewPolicy, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of a segment's samples in a store: ascending, or shuffled by the seed where views are mixed."""
    ids = np.sort(ids, kind="stable")
    if policy.mixing is None:
        return ids
    return ids[np.argsort(random_keys(policy.seed, STREAM_SEGMENT, 0, ids), kind="stable")]


class Partners:
    """The pairs of every view of a policy that mixes.

    Args:
        segments: int64, the samples of each segment in its order.
        num_samples: of the dataset file.
    """

    def __init__(self, policy: ViewPolicy, segments: Sequence[NDArray[np.int64]], num_samples: int) -> None:
        assert policy.mixing is not None
        self._mixing: Mixing = policy.mixing
        self._made_of = policy, segments, num_samples
        self._seed, self._size, self._segments = policy.seed, policy.size, list(segments)
        self.blocks = np.full(num_samples, -1, np.int32)
        self._firsts = np.zeros(num_samples, np.int64)  # the first sample of each one's block
        start, block = 0, self._mixing.block
        for ids in self._segments:
            places = np.arange(len(ids)) // block
            self.blocks[ids] = start + places
            self._firsts[ids] = ids[places * block]
            start += -(-len(ids) // block)
        self.of_view = lru_cache(maxsize=VIEWS_KEPT)(self._of_view)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process makes its own."""
        return Partners, self._made_of

    def with_partners(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """These samples and all that they may meet, ascending."""
        return np.flatnonzero(np.isin(self.blocks, np.unique(self.blocks[ids])))

    @classmethod
    def of(cls, policy: ViewPolicy, segments: Sequence[NDArray[np.int64]], num_samples: int) -> Partners | None:
        """None for a policy that mixes nothing."""
        if policy.mixed:
            return StoredPartners(policy, segments, num_samples)
        return None if policy.mixing is None else cls(policy, segments, num_samples)

    @property
    def block(self) -> int:
        """Samples in a block."""
        return self._mixing.block

    def _of_view(self, view: int) -> NDArray[np.int32]:
        """int32 [samples of the file]: each one's partner under a view; itself where it has none."""
        found = np.arange(len(self.blocks), dtype=np.int32)
        for ids in self._segments:
            keys = random_keys(self._seed, STREAM_PAIRS, view, ids)
            whole = len(ids) // self.block * self.block
            for part in (slice(0, whole), slice(whole, len(ids))):
                if len(ids[part]) > 1:
                    columns = self.block if part.start == 0 and whole else len(ids[part])
                    members = ids[part].reshape(-1, columns)
                    order = np.argsort(keys[part].reshape(-1, columns), axis=1, kind="stable")
                    mixed = np.take_along_axis(members, order, axis=1)[:, : columns // 2 * 2]
                    found[mixed[:, 0::2]], found[mixed[:, 1::2]] = mixed[:, 1::2], mixed[:, 0::2]
        return found

    def table(self, view: int, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 [n, 6]: each sample's partner, and the mix with it: weight, top, left, bottom, right.

        Within that box of the crop a pixel is (weight * own + (2**16 - weight) * the partner's + 2**15) >> 16; outside
        it is the own one. An empty box leaves all.
        """
        partners = self.of_view(view)[ids]
        key = self._firsts[ids] if self._mixing.shared else np.minimum(ids, partners)
        draw, centre = (random_keys(self._seed, stream, view, key) for stream in (STREAM_DRAW, STREAM_CENTRE))
        which, at = (draw >> np.uint64(48)).astype(np.int64), (draw & np.uint64(LAMBDAS - 1)).astype(np.int64)
        mixing, found = self._mixing, np.zeros((len(ids), 6), np.int32)
        found[:, 0], found[:, 1] = partners, ONE_Q16
        paired = partners != ids
        cut = paired & (which < mixing.cutmix_q16)
        if cut.any():
            lambdas = np.array(mixing.cutmix_lambdas_q16, np.int64)[at[cut]]
            found[cut, 1:] = self._cut_boxes(lambdas, centre[cut])
        blend = paired & (which >= mixing.cutmix_q16) & (which < mixing.cutmix_q16 + mixing.mixup_q16)
        if blend.any():
            found[blend, 1] = np.array(mixing.mixup_lambdas_q16, np.int64)[at[blend]]
            found[blend, 4:] = self._size
        return found

    def _cut_boxes(self, lambdas_q16: NDArray[np.int64], centre: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Weight 0 and the box: side floor(S * sqrt(1 - lambda)), centre uniform, cut off, as in CutMix's code."""
        size = self._size
        area = (ONE_Q16 - lambdas_q16) * size * size >> 16
        side = np.sqrt(area.astype(np.float64)).astype(np.int64)  # exact: below 2**53, and a correctly rounded root
        low = np.uint64(0xFFFFFFFF)
        rows, columns = ((word * np.uint64(size)) >> np.uint64(32) for word in (centre >> np.uint64(32), centre & low))
        found = np.zeros((len(side), 5), np.int64)
        for place, middle in ((1, rows.astype(np.int64)), (2, columns.astype(np.int64))):
            found[:, place] = np.maximum(middle - side // 2, 0)
            found[:, place + 2] = np.minimum(middle + side // 2, size)
        return found


class StoredPartners(Partners):
    """Who is mixed with whom under stored views: what their tables say. A partner need not have the sample as its own.

    All samples are one block: any may meet any.
    """

    def __init__(self, policy: ViewPolicy, segments: Sequence[NDArray[np.int64]], num_samples: int) -> None:
        self._policy, self._made_of = policy, (policy, segments, num_samples)
        self.blocks = np.full(num_samples, -1, np.int32)
        for ids in segments:
            self.blocks[ids] = 0
        self.of_view = lru_cache(maxsize=VIEWS_KEPT)(self._of_view)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredPartners, self._made_of

    @property
    def block(self) -> int:
        return int((self.blocks == 0).sum())

    def _of_view(self, view: int) -> NDArray[np.int32]:
        return np.ascontiguousarray(self._policy.stored_view(view)[:, BOX_COLUMNS])

    def table(self, view: int, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        return self._policy.stored_view(view)[ids, BOX_COLUMNS:]


def crop_table(
    policy: ViewPolicy,
    partners: Partners | None,
    view: int,
    ids: NDArray[np.int64],
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
) -> NDArray[np.int32]:
    """All that makes the crops of some samples, int32: what the digest of a record is taken of.

    [n, 5] boxes as `ViewPolicy.boxes` gives them; where there are pixel operations, their table; where views are mixed,
    `Partners.table` and the partners' boxes. `heights` and `widths` are those of all samples of the file.
    """
    parts = [policy.boxes(view, ids, heights[ids], widths[ids])]
    if policy.pixels is not None:
        parts.append(policy.pixels.table(policy.seed, view, ids, policy.size))
    if partners is not None:
        parts.append(partners.table(view, ids))
        others = parts[-1][:, 0].astype(np.int64)
        parts.append(policy.boxes(view, others, heights[others], widths[others]))
    return np.concatenate(parts, axis=1)
