"""The second pass: output columns, 8 rows at a time, as weighted sums of input columns.

In an image neighbours along x are 3 values apart, which vector units cannot add. So 8 rows are first laid beside
each other: a *tile* is int16 [columns, 8, 4], where an entry holds one column of pixels, each as red, green, blue and
a value that is nobody's. An entry is a cache line, and an output column is the weighted sum of a few of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.resized_crop.vectors import LANES, sum_entries

ENTRY = LANES  # values of an entry
VALUES = 4  # of a pixel in an entry
ROWS = ENTRY // VALUES  # of a tile

# Unsigned indices: a signed one could be negative, and count from the end, for all that Numba knows.
_U = np.uintp
_1, _2, _3, _VALUES, _ENTRY = _U(1), _U(2), _U(3), _U(VALUES), _U(ENTRY)


@njit(nogil=True, boundscheck=False)
def place_row(line, width, row, tile):
    """Put row 0 to 7 of a tile into its place. line int16 [3 * width + 1]: the last value is that of nobody."""
    i, o = _U(0), _VALUES * _U(row)
    for _ in range(width):
        # Four loads, four stores: LLVM makes one of each.
        red, green, blue, rest = line[i], line[i + _1], line[i + _2], line[i + _3]
        tile[o], tile[o + _1], tile[o + _2], tile[o + _3] = red, green, blue, rest
        i += _3
        o += _ENTRY


@njit(nogil=True, boundscheck=False)
def resize_columns(tile, first, weights, out):
    """Fill out uint8 [size, 8, 4] from a tile int16 [width + taps, 8, 4]; all arrays flat but the weights.

    first int32 [size] and weights int16 [size, taps] as ``axis_weights`` gives them. Taps of weight 0 may lie behind
    the box: they read what the tile held before, hence its room.
    """
    taps, flat = weights.shape[1], weights.reshape(-1)
    for x in range(first.size):
        sum_entries(tile, first[x] * ENTRY, flat, x * taps, taps // 2, out, x * ENTRY)


@njit(nogil=True, boundscheck=False)
def take_row(tile, row, flip, out):
    """Fill out uint8 [size * 3] with row 0 to 7 of a tile uint8 [size, 8, 4]."""
    size = out.size // 3
    i, step, o = _VALUES * _U(row), _ENTRY, _U(0)
    if flip:
        i, step = i + _U(size - 1) * _ENTRY, _U(0) - _ENTRY
    for _ in range(size - 1):
        # Four values at once; the next pixel writes over the fourth.
        red, green, blue, rest = tile[i], tile[i + _1], tile[i + _2], tile[i + _3]
        out[o], out[o + _1], out[o + _2], out[o + _3] = red, green, blue, rest
        i += step
        o += _3
    for c in range(_3):
        out[o + c] = tile[i + c]
