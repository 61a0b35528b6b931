"""The rows of samples in torch operations, on any device: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_rows_reference(ids_B: Tensor, rows_N: Tensor | None, num_samples: int) -> tuple[Tensor, int, int, int]:
    """The row of each sample; the lowest id and the highest (0 and -1 of none), and the first place without a row.

    Args:
        ids_B: int64 [B].
        rows_N: int32 [num_samples], -1 where a sample has no row; None where row n is sample n.

    Returns:
        Rows int64 [B], without meaning where an id is out of range; lowest; highest; place, -1 where all have a row.
    """
    if not len(ids_B):
        return ids_B, 0, -1, -1
    lowest, highest = int(ids_B.min()), int(ids_B.max())
    if rows_N is None or lowest < 0 or highest >= num_samples:
        return ids_B, lowest, highest, -1
    rows_B = rows_N.index_select(0, ids_B).to(torch.int64)
    missing_B = rows_B < 0
    return rows_B, lowest, highest, int(missing_B.int().argmax()) if bool(missing_B.any()) else -1
