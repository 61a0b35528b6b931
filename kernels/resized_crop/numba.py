"""The resized crop on the CPU. Everything here runs inside a decoder's parallel loop, without the GIL."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastlabel.kernels.resized_crop.reference import FRACTION_BITS, WEIGHT_BITS

_FIRST_DROP, _SECOND_DROP = WEIGHT_BITS - FRACTION_BITS, WEIGHT_BITS + FRACTION_BITS


@njit(nogil=True, cache=True)
def taps_at_most(length, size):
    """How many input pixels one output pixel reads, at most, rounded up to a multiple of four."""
    return (2 * max(length, size) // size + 4) // 4 * 4


@njit(nogil=True, cache=True, error_model="numpy")
def axis_weights(length, size, first, weights):
    """Fill first int32 [size] and weights int16 [size, taps]: output i reads inputs first[i], first[i] + 1, ..."""
    taps = weights.shape[1]
    support = 2 * max(length, size)
    for i in range(size):
        centre = (2 * i + 1) * length
        low = max(0, ((centre - support) // size + 1) >> 1)
        high = min(length - 1, (-((-(centre + support)) // size) - 2) >> 1)
        total = np.int64(0)
        for j in range(low, high + 1):
            total += support - abs((2 * j + 1) * size - centre)
        rest, largest, at = np.int64(1 << WEIGHT_BITS), np.int64(0), 0
        for t in range(taps):
            j = low + t
            raw = max(0, support - abs((2 * j + 1) * size - centre)) if j <= high else 0
            weight = ((raw << (WEIGHT_BITS + 1)) + total) // (2 * total)
            weights[i, t] = weight
            rest -= weight
            if raw > largest:
                largest, at = raw, t
        weights[i, at] += rest
        first[i] = low


@njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _resize_rows(image, top, left, height, width, size, first, weights, sums, partial):
    """partial int16 [size, width * 3]: the rows of the box resized, with 7 fractional bits."""
    stride = image.shape[1] * 3
    pixels = image.reshape(-1)
    count = width * 3
    for y in range(size):
        base = (top + first[y]) * stride + left * 3
        line = partial[y]
        last = top + height - 1
        for x in range(count):
            sums[x] = 1 << (_FIRST_DROP - 1)
        for t in range(0, weights.shape[1], 4):
            # Four rows in one pass over x: LLVM turns this into vector multiply-adds.
            w0, w1 = np.int32(weights[y, t]), np.int32(weights[y, t + 1])
            w2, w3 = np.int32(weights[y, t + 2]), np.int32(weights[y, t + 3])
            if w0 == 0 and w1 == 0 and w2 == 0 and w3 == 0:
                continue
            # A padding tap has weight 0 but must still read inside the image.
            room = last - (top + first[y]) - t
            a = base + t * stride
            b = a + min(1, room) * stride
            c = a + min(2, room) * stride
            d = a + min(3, room) * stride
            row_a, row_b = pixels[a : a + count], pixels[b : b + count]
            row_c, row_d = pixels[c : c + count], pixels[d : d + count]
            for x in range(count):
                sums[x] += (
                    np.int32(row_a[x]) * w0
                    + np.int32(row_b[x]) * w1
                    + np.int32(row_c[x]) * w2
                    + np.int32(row_d[x]) * w3
                )
        for x in range(count):
            line[x] = np.int16(sums[x] >> _FIRST_DROP)


@njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _resize_columns(partial, size, first, weights, flip, out):
    taps = weights.shape[1]
    half = np.int32(1 << (_SECOND_DROP - 1))
    for y in range(size):
        line = partial[y]
        for x in range(size):
            red, green, blue = half, half, half
            at = first[x] * 3
            for t in range(taps):
                weight = np.int32(weights[x, t])
                if weight != 0:
                    red += line[at] * weight
                    green += line[at + 1] * weight
                    blue += line[at + 2] * weight
                at += 3
            target = size - 1 - x if flip else x
            out[y, target, 0] = np.uint8(red >> _SECOND_DROP)
            out[y, target, 1] = np.uint8(green >> _SECOND_DROP)
            out[y, target, 2] = np.uint8(blue >> _SECOND_DROP)


@njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _copy(image, top, left, size, flip, out):
    """A box of exactly the output's size: no arithmetic; what lies outside the image is black."""
    height, width = image.shape[0], image.shape[1]
    for y in range(size):
        inside = 0 <= top + y < height
        for x in range(size):
            target = size - 1 - x if flip else x
            for c in range(3):
                if inside and 0 <= left + x < width:
                    out[y, target, c] = image[top + y, left + x, c]
                else:
                    out[y, target, c] = 0


@njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def resized_crop(image, box, out):
    """Fill out uint8 [S, S, 3] from image uint8 [H, W, 3] (contiguous); True when the box could be read.

    A box may leave the image only where it is copied without a resize, as pad-crop does.
    """
    size = out.shape[0]
    top, left, height, width = np.int64(box[0]), np.int64(box[1]), np.int64(box[2]), np.int64(box[3])
    flip = box[4] != 0
    if height == size and width == size:
        _copy(image, top, left, size, flip, out)
        return True
    if height < 1 or width < 1 or top < 0 or left < 0:
        return False
    if top + height > image.shape[0] or left + width > image.shape[1]:
        return False
    first = np.empty(size, np.int32)
    partial = np.empty((size, width * 3), np.int16)
    sums = np.empty(width * 3, np.int32)
    weights = np.empty((size, taps_at_most(height, size)), np.int16)
    axis_weights(height, size, first, weights)
    _resize_rows(image, top, left, height, width, size, first, weights, sums, partial)
    weights = np.empty((size, taps_at_most(width, size)), np.int16)
    axis_weights(width, size, first, weights)
    _resize_columns(partial, size, first, weights, flip, out)
    return True
