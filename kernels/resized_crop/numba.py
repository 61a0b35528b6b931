"""The resized crop on the CPU. Everything here runs inside a decoder's parallel loop, without the GIL."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.resized_crop import columns, reference, rows, vectors, weights
from fastlabel.kernels.resized_crop import scratch as scratch_parts
from fastlabel.kernels.resized_crop.columns import ROWS, place_row, resize_columns, take_row
from fastlabel.kernels.resized_crop.rows import resize_row
from fastlabel.kernels.resized_crop.scratch import axis_parts, bytes_needed, tile_parts
from fastlabel.kernels.resized_crop.weights import axis_weights, taps_at_most

__all__ = ["axis_weights", "resized_crop", "resized_crop_in", "scratch_bytes", "taps_at_most"]

SOURCES = (columns, reference, rows, scratch_parts, vectors, weights)


@njit(nogil=True, boundscheck=False)
def _copy(image, top, left, flip, out):
    """A box of exactly the output's size: no arithmetic; what lies outside the image is black."""
    size, (height, width) = out.shape[0], image.shape[:2]
    begin, end = min(size, max(0, -left)), max(0, min(size, width - left))
    for y in range(size):
        if begin >= end or not 0 <= top + y < height:
            out[y] = 0
            continue
        if begin > 0 or end < size:
            out[y] = 0
        inside = image[top + y, left + begin : left + end].reshape(-1)
        if flip:
            _mirror_pixels(inside, out[y, size - end : size - begin].reshape(-1))
        else:
            target = out[y, begin:end].reshape(-1)
            for i in range(inside.size):
                target[i] = inside[i]


@njit(nogil=True, boundscheck=False)
def _mirror_pixels(pixels, out):
    i, o = np.uintp(0), np.uintp(pixels.size)  # unsigned: see columns.py
    for _ in range(pixels.size // 3):
        o -= np.uintp(3)
        for c in range(np.uintp(3)):
            out[o + c] = pixels[i + c]
        i += np.uintp(3)


@njit(nogil=True, boundscheck=False)
def _resize(image, top, left, height, width, flip, out, scratch):
    size = out.shape[0]
    first_row, row_weights, at = axis_parts(scratch, 0, height, size)
    first_column, column_weights, at = axis_parts(scratch, at, width, size)
    line, tile, out_tile = tile_parts(scratch, at, width, width + column_weights.shape[1], size)
    axis_weights(height, size, first_row, row_weights)
    axis_weights(width, size, first_column, column_weights)
    pixels, stride = image.reshape(-1), image.shape[1] * 3
    origin, out_rows = top * stride + left * 3, out.reshape(size, size * 3)
    last = origin + (height - 1) * stride
    for begin in range(0, size, ROWS):
        count = min(ROWS, size - begin)
        for row in range(count):
            start = origin + first_row[begin + row] * stride
            resize_row(pixels, start, stride, last, row_weights[begin + row], width * 3, line)
            place_row(line, width, row, tile)
        resize_columns(tile, first_column, column_weights, out_tile)
        for row in range(count):
            take_row(out_tile, row, flip, out_rows[begin + row])


@cached_njit(nogil=True, depends_on=SOURCES)
def scratch_bytes(height, width, size):
    """Bytes of scratch for any crop of size x size from boxes of at most height x width pixels."""
    return bytes_needed(height, width, size)


@cached_njit(nogil=True, boundscheck=False, depends_on=SOURCES)
def resized_crop_in(image, box, out, scratch):
    """Fill out uint8 [S, S, 3] from image uint8 [H, W, 3] (both contiguous); True when the box could be read.

    A box may leave the image only where it is copied without a resize, as pad-crop does. scratch uint8: at least
    ``scratch_bytes(H, W, S)``, beginning with a cache line if it is to be fast; what it holds does not matter.
    """
    size = out.shape[0]
    top, left, height, width = np.int64(box[0]), np.int64(box[1]), np.int64(box[2]), np.int64(box[3])
    flip = box[4] != 0
    if height == size and width == size:
        _copy(image, top, left, flip, out)
        return True
    if height < 1 or width < 1 or top < 0 or left < 0:
        return False
    if top + height > image.shape[0] or left + width > image.shape[1]:
        return False
    _resize(image, top, left, height, width, flip, out, scratch)
    return True


@cached_njit(nogil=True, depends_on=SOURCES)
def resized_crop(image, box, out):
    """``resized_crop_in`` with scratch memory of its own."""
    scratch = np.empty(bytes_needed(image.shape[0], image.shape[1], out.shape[0]), np.uint8)
    return resized_crop_in(image, box, out, scratch)
