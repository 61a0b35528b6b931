"""Stored crops: boxes that another project drew and wrote down, in place of boxes that follow from a seed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import InputError, StoreError

BOX_COLUMNS, MIX_COLUMNS = 5, 6  # top, left, height, width, flip; partner, weight, top, left, bottom, right
VIEWS_KEPT = 8

ReadView = Callable[[int], NDArray[np.int32]]


def view_digest(crops: NDArray[np.int32]) -> str:
    """SHA-256 (hex) of one view's table, as little-endian int32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(crops, "<i4").data).hexdigest()


class StoredCrops:
    """The tables of all views, read one at a time and compared with their digests; the last few are kept.

    Args:
        read: gives the table of a view, int32 [samples of the file, columns]; rows of zeros have no crop.
        digests: of each view's table.
        columns: 5, or 11 where crops are mixed.
    """

    def __init__(self, read: ReadView, digests: tuple[str, ...], columns: int) -> None:
        self._read, self.digests, self.columns = read, digests, columns
        self._kept: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    @classmethod
    def of(cls, tables: NDArray[np.int32]) -> StoredCrops:
        """Of tables in memory, int32 [V, samples of the file, columns]."""
        tables = np.ascontiguousarray(tables, np.int32)
        return cls(_InMemory(tables), tuple(view_digest(one) for one in tables), tables.shape[2])

    def view(self, view: int) -> NDArray[np.int32]:
        """The table of a view. InputError where there is none; StoreError where it is damaged or another one."""
        if not 0 <= view < len(self.digests):
            raise InputError(f"view {view} has no stored crops: they are of {len(self.digests)} views, from 0")
        found = self._kept.get(view)
        if found is None:
            found = self._read(view)
            if found.shape[1:] != (self.columns,) or view_digest(found) != self.digests[view]:
                raise StoreError(f"the stored crops of view {view} do not have the digest that the manifest gives")
            self._kept[view] = found
            while len(self._kept) > VIEWS_KEPT:
                self._kept.popitem(last=False)
        return found

    def __reduce__(self) -> tuple[type[StoredCrops], tuple[ReadView, tuple[str, ...], int]]:
        """Another process reads its own."""
        return StoredCrops, (self._read, self.digests, self.columns)


class _InMemory:
    def __init__(self, tables: NDArray[np.int32]) -> None:
        self.tables = tables

    def __call__(self, view: int) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self.tables[view]
        return found


def stored_boxes(
    crops: StoredCrops, view: int, ids: NDArray[np.int64], heights: NDArray[np.int32], widths: NDArray[np.int32]
) -> NDArray[np.int32]:
    """int32 [B, 5] boxes of samples. InputError where a sample has none, or one that leaves its image."""
    table = crops.view(view)
    if len(ids) and int(ids.max()) >= len(table):
        raise InputError(f"sample {ids.max()} has no stored crop: they are of {len(table)} samples")
    boxes = table[ids, :BOX_COLUMNS]
    top, left, height, width, flip = (boxes[:, place].astype(np.int64) for place in range(BOX_COLUMNS))
    bad = (np.minimum(top, left) < 0) | (np.minimum(height, width) < 1) | ((flip != 0) & (flip != 1))
    bad |= (top + height > heights) | (left + width > widths)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"sample {ids[first]} is {heights[first]}x{widths[first]} pixels, and its stored crop in view {view} is "
            f"{boxes[first].tolist()} (top, left, height, width, flip): these are crops of other images"
        )
    return boxes
