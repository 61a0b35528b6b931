"""The first pass: an output row is a weighted sum of input rows. Its values keep 7 fractional bits.

All loops run over x and nothing else, so that LLVM turns them into vector multiply-adds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.resized_crop.reference import FRACTION_BITS, WEIGHT_BITS
from fastlabel.kernels.resized_crop.weights import GROUP

_DROP = WEIGHT_BITS - FRACTION_BITS
_HALF = np.int32(1 << (_DROP - 1))


@njit(nogil=True, boundscheck=False)
def _two(a, b, w0, w1, line):
    for x in range(line.size):
        line[x] = np.int16((np.int32(a[x]) * w0 + np.int32(b[x]) * w1 + _HALF) >> _DROP)


@njit(nogil=True, boundscheck=False)
def _three(a, b, c, w0, w1, w2, line):
    for x in range(line.size):
        line[x] = np.int16((np.int32(a[x]) * w0 + np.int32(b[x]) * w1 + np.int32(c[x]) * w2 + _HALF) >> _DROP)


@njit(nogil=True, boundscheck=False)
def _four(a, b, c, d, w0, w1, w2, w3, line):
    for x in range(line.size):
        low = np.int32(a[x]) * w0 + np.int32(b[x]) * w1
        line[x] = np.int16((low + np.int32(c[x]) * w2 + np.int32(d[x]) * w3 + _HALF) >> _DROP)


@njit(nogil=True, boundscheck=False)
def _add_four(a, b, c, d, w0, w1, w2, w3, sums):
    for x in range(sums.size):
        low = np.int32(a[x]) * w0 + np.int32(b[x]) * w1
        sums[x] += low + np.int32(c[x]) * w2 + np.int32(d[x]) * w3


@njit(nogil=True, boundscheck=False)
def _rows_at(pixels, start, stride, last, count):
    """Four rows from ``start`` on. A tap of weight 0 may lie below the ``last`` one: that is read in its place."""
    a, b = min(start, last), min(start + stride, last)
    c, d = min(start + 2 * stride, last), min(start + 3 * stride, last)
    return pixels[a : a + count], pixels[b : b + count], pixels[c : c + count], pixels[d : d + count]


@njit(nogil=True, boundscheck=False)
def resize_row(pixels, start, stride, last, weights, sums, line):
    """Fill line int16 [N]: one output row of a box whose rows have N values.

    Its taps begin at ``pixels[start]``, ``stride`` apart; the box's last row begins at ``pixels[last]``.
    weights int16 [taps] as ``axis_weights`` gives them; sums int32 [N] is scratch.
    """
    taps = weights.size
    if taps > GROUP:
        sums[:] = _HALF
        for t in range(0, taps, GROUP):
            a, b, c, d = _rows_at(pixels, start + t * stride, stride, last, line.size)
            w0, w1 = np.int32(weights[t]), np.int32(weights[t + 1])
            _add_four(a, b, c, d, w0, w1, np.int32(weights[t + 2]), np.int32(weights[t + 3]), sums)
        for x in range(line.size):
            line[x] = np.int16(sums[x] >> _DROP)
        return
    a, b, c, d = _rows_at(pixels, start, stride, last, line.size)
    w0, w1, w2, w3 = np.int32(weights[0]), np.int32(weights[1]), np.int32(weights[2]), np.int32(weights[3])
    if w3 != 0:
        _four(a, b, c, d, w0, w1, w2, w3, line)
    elif w2 != 0:
        _three(a, b, c, w0, w1, w2, line)
    else:
        _two(a, b, w0, w1, line)
