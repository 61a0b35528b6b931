"""mix_crops_: the crops of pairs of samples, mixed in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.mix_crops.reference import ONE, mix_crops_reference, mix_with

TABLE = 6  # columns: partner's row, weight, top, left, bottom, right
ROWS_AT_ONCE = 16  # bounds the memory of int32 copies


def mix_crops_(crops_BVSS3: Tensor, table_BV6: Tensor, pairs: bool = True) -> Tensor:
    """Mix crops in place, as `mix_crops_reference` defines it: the same bytes on every device.

    Args:
        crops_BVSS3: uint8, contiguous, on any device.
        table_BV6: int32, on the CPU.
        pairs: each partner has the crop as its own partner, and the same rest. False takes any partners, more slowly.

    Raises ValueError for shapes, dtypes or values that do not fit together. Returns the same tensor.
    """
    _check(crops_BVSS3, table_BV6, pairs)
    if not crops_BVSS3.numel():
        return crops_BVSS3
    if not pairs:
        return _mix_any_(crops_BVSS3, table_BV6)
    if crops_BVSS3.device.type == "cpu":
        from fastlabel.kernels.mix_crops.numba import mix_crops

        mix_crops(crops_BVSS3.flatten(3).numpy(), table_BV6.numpy())
    elif crops_BVSS3.device.type == "cuda":
        from fastlabel.kernels.mix_crops.triton import mix_crops_triton

        mix_crops_triton(crops_BVSS3, table_BV6.pin_memory().to(crops_BVSS3.device, non_blocking=True))
    else:
        crops_BVSS3.copy_(mix_crops_reference(crops_BVSS3, table_BV6))
    return crops_BVSS3


def _mix_any_(crops_BVSS3: Tensor, table_BV6: Tensor) -> Tensor:
    """Out of a copy: a crop may be the partner of many, and is mixed itself."""
    plain = crops_BVSS3.clone()
    partner_BV = table_BV6[..., 0].to(plain.device).long()
    views = torch.arange(plain.shape[1], device=plain.device)
    for start in range(0, len(plain), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        crops_BVSS3[rows] = mix_with(plain[rows], plain[partner_BV[rows], views], table_BV6[rows])
    return crops_BVSS3


def _check(crops_BVSS3: Tensor, table_BV6: Tensor, pairs: bool) -> None:
    shape = tuple(crops_BVSS3.shape)
    if crops_BVSS3.dtype != torch.uint8 or len(shape) != 5 or shape[2] != shape[3] or shape[4] != 3:
        raise ValueError(f"crops are {crops_BVSS3.dtype} {shape}, expected uint8 [B, V, S, S, 3]")
    if not crops_BVSS3.is_contiguous():
        raise ValueError("crops that are mixed in place must be contiguous")
    if (
        table_BV6.dtype != torch.int32
        or tuple(table_BV6.shape) != (*shape[:2], TABLE)
        or table_BV6.device.type != "cpu"
    ):
        raise ValueError(
            f"the table is {table_BV6.dtype} {tuple(table_BV6.shape)} on {table_BV6.device}, expected int32 "
            f"{(*shape[:2], TABLE)} on the CPU"
        )
    if not len(table_BV6):
        return
    low, high = table_BV6.amin((0, 1)).tolist(), table_BV6.amax((0, 1)).tolist()
    most = (shape[0] - 1, ONE, shape[2], shape[2], shape[2], shape[2])
    if min(low) < 0 or any(one > limit for one, limit in zip(high, most, strict=True)):
        raise ValueError(f"the table has values {low} to {high}, expected 0 to {list(most)}")
    if not pairs:
        return
    partner_BV = table_BV6[..., 0].long()
    if not torch.equal(partner_BV.gather(0, partner_BV), torch.arange(shape[0])[:, None].expand(shape[:2])):
        raise ValueError("the table does not say the same pairs from both sides")
