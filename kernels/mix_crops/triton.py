"""Pairs of crops mixed in place, on CUDA: a program for a tile of a pair, which the first of both starts."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels.mix_crops.reference import BITS, HALF, ONE

_BITS, _HALF, _ONE = tl.constexpr(BITS), tl.constexpr(HALF), tl.constexpr(ONE)
TILE = 4096  # bytes


@triton.jit
def _mix_kernel(crops, table, views, size, nbytes, TILE: tl.constexpr):
    crop = tl.program_id(0)
    place = crop * 6
    row, partner = crop // views, tl.load(table + place)
    if partner <= row:
        return
    weight = tl.load(table + place + 1)
    top, left = tl.load(table + place + 2), tl.load(table + place + 3)
    bottom, right = tl.load(table + place + 4), tl.load(table + place + 5)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    y, x = at // (3 * size), at % (3 * size) // 3
    inside = (at < nbytes) & (y >= top) & (y < bottom) & (x >= left) & (x < right)
    one = crops + crop.to(tl.int64) * nbytes + at
    other = crops + (partner * views + crop % views).to(tl.int64) * nbytes + at
    a, b = tl.load(one, inside, other=0).to(tl.int32), tl.load(other, inside, other=0).to(tl.int32)
    tl.store(one, ((weight * a + (_ONE - weight) * b + _HALF) >> _BITS).to(tl.uint8), inside)
    tl.store(other, ((weight * b + (_ONE - weight) * a + _HALF) >> _BITS).to(tl.uint8), inside)


def mix_crops_triton(crops_BVSS3: Tensor, table_BV6: Tensor) -> None:
    """Mix contiguous crops in place; the table is on their device."""
    count, views, size = crops_BVSS3.shape[:3]
    nbytes = 3 * size * size
    grid = (count * views, triton.cdiv(nbytes, TILE))
    _mix_kernel[grid](crops_BVSS3, table_BV6, views, size, nbytes, TILE=TILE)
