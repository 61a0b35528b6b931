"""The memory that one crop needs for its temporaries: one vector of bytes, used again for the next crop."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.resized_crop.columns import ENTRY
from fastlabel.kernels.resized_crop.weights import taps_at_most

_LINE = 64  # bytes of a cache line: every part begins with one, if the vector does


@njit(nogil=True)
def _whole(nbytes):
    return (nbytes + _LINE - 1) // _LINE * _LINE


@njit(nogil=True)
def bytes_needed(height, width, size):
    """Bytes of scratch for any crop of size x size from boxes of at most height x width pixels."""
    taps, columns = taps_at_most(height, size) + taps_at_most(width, size), width + taps_at_most(width, size)
    weights = 2 * _whole(4 * size) + _whole(2 * size * taps) + _LINE
    lines = _whole(12 * width) + _whole(6 * width + 2) + 4 * ENTRY
    return weights + lines + (2 * columns + size) * ENTRY


@njit(nogil=True)
def axis_parts(scratch, at, length, size):
    """first int32 [size] and weights int16 [size, taps] of one axis, and where the rest of the scratch begins."""
    taps = taps_at_most(length, size)
    weights_at = at + _whole(4 * size)
    end = weights_at + _whole(2 * size * taps)
    first = scratch[at : at + 4 * size].view(np.int32)
    weights = scratch[weights_at : weights_at + 2 * size * taps].view(np.int16).reshape(size, taps)
    return first, weights, end


@njit(nogil=True)
def row_parts(scratch, at, width):
    """sums int32 [width * 3] and line int16 [width * 3 + 1] of the first pass, and where the rest begins."""
    line_at = at + _whole(12 * width)
    sums = scratch[at : at + 12 * width].view(np.int32)
    line = scratch[line_at : line_at + 6 * width + 2].view(np.int16)
    return sums, line, line_at + _whole(6 * width + 2)


@njit(nogil=True)
def tile_parts(scratch, at, columns, size):
    """A tile int16 [columns, 8, 4], sums int32 [32] and an output tile uint8 [size, 8, 4], all flat."""
    sums_at = at + 2 * columns * ENTRY
    out_at = sums_at + 4 * ENTRY
    tile, sums = scratch[at:sums_at].view(np.int16), scratch[sums_at:out_at].view(np.int32)
    return tile, sums, scratch[out_at : out_at + size * ENTRY]
