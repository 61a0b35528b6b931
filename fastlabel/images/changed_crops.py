"""What happens to the crops of a batch: pixel operations, and the mix of samples with their partners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.kernels.mix_crops import TABLE
from fastlabel.kernels.pixel_operations import pixel_operations_
from fastlabel.kernels.pixel_operations.reference import RIGHT, TOP
from fastlabel.views import Partners, ViewPolicy


def mixed_batch(
    partners: Partners, ids: NDArray[np.int64], views: Sequence[int], own_size: int, size: int
) -> tuple[NDArray[np.int64], Tensor]:
    """The samples to decode, int64 [U]: `ids`, each once, and partners behind them; and the table of `mix_crops_`.

    Boxes are those of crops of `own_size`, scaled to `size`.

    Of a partner that is decoded for one view, the other views stay as they are: nobody asked for them.
    """
    tables = [partners.table(view, ids) for view in views]
    met = np.unique(np.concatenate([table[:, 0] for table in tables])).astype(np.int64)
    wanted = np.concatenate([ids, np.setdiff1d(met, ids)])
    if len(wanted) > len(ids):
        tables = [partners.table(view, wanted) for view in views]
    order = np.argsort(wanted, kind="stable")
    found = np.empty((len(wanted), len(views), TABLE), np.int32)
    for place, table in enumerate(tables):
        others = table[:, 0].astype(np.int64)
        rows = order[np.minimum(np.searchsorted(wanted, others, sorter=order), len(wanted) - 1)]
        absent = np.flatnonzero(wanted[rows] != others)
        found[:, place] = _scaled(table, slice(2, 6), own_size, size)
        found[:, place, 0] = rows
        found[absent, place] = 0
        found[absent, place, 0] = absent
    return wanted, torch.from_numpy(found)


def _scaled(table: NDArray[np.int32], columns: slice, own_size: int, size: int) -> NDArray[np.int32]:
    """The same with the pixels in some columns, of crops of `own_size`, as those of crops of another size."""
    if size != own_size:
        table = table.copy()
        table[:, columns] = (table[:, columns].astype(np.int64) * size + own_size // 2) // own_size
    return table


def change_pixels(policy: ViewPolicy, ids: NDArray[np.int64], views: Sequence[int], crops_BVSS3: Tensor) -> None:
    """Do the pixel operations of a policy to the crops of some samples, in place."""
    if policy.pixels is None or not len(ids):
        return
    erased = slice(TOP, RIGHT + 1)
    tables = [policy.pixels.table(policy.seed, view, ids, policy.size) for view in views]
    tables = [_scaled(table, erased, policy.size, crops_BVSS3.shape[2]) for table in tables]
    table = torch.from_numpy(np.stack(tables, axis=1)).flatten(0, 1)
    fill = torch.tensor(policy.pixels.fill, dtype=torch.uint8)
    pixel_operations_(crops_BVSS3.flatten(0, 1), table, torch.from_numpy(policy.pixels.kernels()), fill)
