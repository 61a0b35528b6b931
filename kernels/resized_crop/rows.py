"""The first pass: an output row is a weighted sum of input rows. Its values keep 7 fractional bits."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.resized_crop.reference import FRACTION_BITS, WEIGHT_BITS
from fastlabel.kernels.resized_crop.vectors import LANES, sum_rows

_DROP = WEIGHT_BITS - FRACTION_BITS


@njit(nogil=True, boundscheck=False)
def resize_row(pixels, start, stride, last, weights, count, line):
    """Fill the first ``count`` values of line int16: one output row of a box whose rows have as many.

    Its taps begin at ``pixels[start]``, ``stride`` apart; the box's last row begins at ``pixels[last]``.
    weights int16 [taps] as ``axis_weights`` gives them: taps of weight 0 may lie below the box, and are not read there.
    """
    pairs = weights.size // 2
    while weights[2 * pairs - 2] == 0 and weights[2 * pairs - 1] == 0:
        pairs -= 1
    if count < LANES:
        _short_row(pixels, start, stride, last, weights, count, line)
        return
    for x in range(0, count - LANES, LANES):
        sum_rows(pixels, start, stride, last, weights, pairs, x, line)
    # What is left, and some of what was there before, once more: nothing is read beyond the row's end.
    sum_rows(pixels, start, stride, last, weights, pairs, count - LANES, line)


@njit(nogil=True, boundscheck=False)
def _short_row(pixels, start, stride, last, weights, count, line):
    for x in range(count):
        total = np.int64(1 << (_DROP - 1))
        for t in range(weights.size):
            total += np.int64(pixels[min(start + t * stride, last) + x]) * weights[t]
        line[x] = total >> _DROP
