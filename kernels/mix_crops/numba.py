"""Pairs of crops mixed in place, on the CPU: a swap of a box, or one pass over both."""

from __future__ import annotations

from numba import njit, prange
from numpy import int32, uint8

from fastlabel.kernels.mix_crops import reference
from fastlabel.kernels.mix_crops.reference import BITS, HALF, ONE
from fastlabel.kernels.numba_cache import cached_njit

_BITS, _HALF, _ONE = int32(BITS), int32(HALF), int32(ONE)


@njit(nogil=True)
def _swap(one, other):
    for i in range(one.size):
        kept = one[i]
        one[i] = other[i]
        other[i] = kept


@njit(nogil=True)
def _blend(one, other, weight):
    rest = _ONE - weight
    for i in range(one.size):
        a, b = int32(one[i]), int32(other[i])
        one[i] = uint8((weight * a + rest * b + _HALF) >> _BITS)
        other[i] = uint8((weight * b + rest * a + _HALF) >> _BITS)


@cached_njit(parallel=True, nogil=True, error_model="numpy", depends_on=(reference,))
def mix_crops(crops_BVR, table_BV6):
    """Mix uint8 [B, V, S, 3 * S] in place. The first of each pair, by its row in the batch, does it for both."""
    for b in prange(crops_BVR.shape[0]):
        for v in range(crops_BVR.shape[1]):
            partner, weight = table_BV6[b, v, 0], int32(table_BV6[b, v, 1])
            if partner > b:
                left, right = 3 * table_BV6[b, v, 3], 3 * table_BV6[b, v, 5]
                for y in range(table_BV6[b, v, 2], table_BV6[b, v, 4]):
                    one, other = crops_BVR[b, v, y, left:right], crops_BVR[partner, v, y, left:right]
                    if weight == 0:
                        _swap(one, other)
                    else:
                        _blend(one, other, weight)
