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
    return weights + _whole(6 * width + 2) + (2 * columns + size) * ENTRY


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
def tile_parts(scratch, at, width, columns, size):
    """A line int16 [width * 3 + 1], a tile int16 [columns, 8, 4] and an output tile uint8 [size, 8, 4], all flat."""
    tile_at = at + _whole(6 * width + 2)
    out_at = tile_at + 2 * columns * ENTRY
    line, tile = scratch[at : at + 6 * width + 2].view(np.int16), scratch[tile_at:out_at].view(np.int16)
    return line, tile, scratch[out_at : out_at + size * ENTRY]
