"""The definition of a mixed crop, on any device: every backend equals this to the byte."""

from __future__ import annotations

import torch
from torch import Tensor

ONE, HALF, BITS = 1 << 16, 1 << 15, 16  # of a weight


def mix_crops_reference(crops_BVSS3: Tensor, table_BV6: Tensor) -> Tensor:
    """Mixed crops, uint8 [B, V, S, S, 3], of plain ones.

    Args:
        table_BV6: int32, for each crop: the partner's row in the batch, a weight in units of 2**-16, and a box: top,
            left, bottom, right. Within the box a value is (weight * own + (2**16 - weight) * the partner's + 2**15)
            >> 16; outside it is the own one. Of
            pairs, the partner has that row, and the same rest.
    """
    views = torch.arange(crops_BVSS3.shape[1], device=crops_BVSS3.device)
    others = crops_BVSS3[table_BV6[..., 0].to(crops_BVSS3.device).long(), views]
    return mix_with(crops_BVSS3, others, table_BV6)


def mix_with(crops_BVSS3: Tensor, others_BVSS3: Tensor, table_BV6: Tensor) -> Tensor:
    """The same of crops and those of their partners, uint8 [B, V, S, S, 3] each; the table's first column is unused."""
    rows, columns = (
        torch.arange(crops_BVSS3.shape[2], device=crops_BVSS3.device).view(shape) for shape in ((-1, 1), (1, -1))
    )
    _, weight, top, left, bottom, right = (
        part[..., None, None] for part in table_BV6.to(crops_BVSS3.device).unbind(-1)
    )
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    own, other = crops_BVSS3.int(), others_BVSS3.int()
    weight = weight[..., None]
    mixed = (weight * own + (ONE - weight) * other + HALF) >> BITS
    return torch.where(inside[..., None], mixed, own).to(torch.uint8)
