"""The pixel operations on the CPU: each crop in place, by the thread that has it, with room for one more crop."""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, njit, prange

from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.pixel_operations import reference
from fastlabel.kernels.pixel_operations.reference import (
    BITS,
    BLUE,
    BLUR,
    BOTTOM,
    BRIGHTNESS,
    CONTRAST,
    GRAY,
    GREEN,
    HALF,
    KIND,
    LEFT,
    LEVEL,
    ONE,
    RED,
    RIGHT,
    SATURATION,
    SOLARISE,
    TAPS,
    THRESHOLD,
    TOP,
)

FIXED = len(reference.COLUMNS)


@njit(nogil=True, inline="always")
def _gray(crop, y, x):
    red, green, blue = np.int32(crop[y, x, 0]), np.int32(crop[y, x, 1]), np.int32(crop[y, x, 2])
    return (RED * red + GREEN * green + BLUE * blue + HALF) >> BITS


@njit(nogil=True, inline="always")
def _cut(value):
    return np.uint8(min(max(value, np.int64(0)), np.int64(255)))


@njit(nogil=True)
def _make_gray(crop):
    for y in range(crop.shape[0]):
        for x in range(crop.shape[1]):
            crop[y, x, :] = _gray(crop, y, x)


@njit(nogil=True)
def _solarise(crop):
    flat = crop.reshape(crop.size)
    for i in range(flat.size):
        if flat[i] >= THRESHOLD:
            flat[i] = 255 - flat[i]


@njit(nogil=True)
def _blur_rows(source, out, weights):
    """Blur along columns of the image: `source` and `out` are [S, R], rows of pixels."""
    size, width = source.shape
    total = np.empty(width, np.int32)
    for y in range(size):
        total[:] = HALF
        for offset in range(1 - TAPS, TAPS):
            row, weight = source[min(max(y + offset, 0), size - 1)], np.int32(weights[abs(offset)])
            for i in range(width):
                total[i] += weight * np.int32(row[i])
        for i in range(width):
            out[y, i] = np.uint8(min(total[i] >> BITS, 255))


@njit(nogil=True)
def _blur_columns(source, out, weights):
    """Blur along rows of the image: `source` and `out` are [S, S, 3]."""
    size = source.shape[0]
    for y in range(size):
        for x in range(size):
            for c in range(3):
                total = np.int32(HALF)
                for offset in range(1 - TAPS, TAPS):
                    total += np.int32(weights[abs(offset)]) * np.int32(source[y, min(max(x + offset, 0), size - 1), c])
                out[y, x, c] = np.uint8(min(total >> BITS, 255))


@njit(nogil=True)
def _brightness(crop, factor):
    flat = crop.reshape(crop.size)
    for i in range(flat.size):
        flat[i] = _cut((factor * np.int64(flat[i]) + HALF) >> BITS)


@njit(nogil=True)
def _mean_gray(crop):
    total = np.int64(0)
    for y in range(crop.shape[0]):
        for x in range(crop.shape[1]):
            total += _gray(crop, y, x)
    count = np.int64(crop.shape[0] * crop.shape[1])
    return (2 * total + count) // (2 * count)


@njit(nogil=True)
def _contrast(crop, factor):
    rest = (ONE - factor) * _mean_gray(crop) + HALF
    flat = crop.reshape(crop.size)
    for i in range(flat.size):
        flat[i] = _cut((factor * np.int64(flat[i]) + rest) >> BITS)


@njit(nogil=True)
def _saturation(crop, factor):
    for y in range(crop.shape[0]):
        for x in range(crop.shape[1]):
            rest = (ONE - factor) * np.int64(_gray(crop, y, x)) + HALF
            for c in range(3):
                crop[y, x, c] = _cut((factor * np.int64(crop[y, x, c]) + rest) >> BITS)


@njit(nogil=True)
def _move_patches(crop, order, room):
    grid = round(np.sqrt(order.size))
    side = crop.shape[0] // grid
    room[:] = crop
    for place in range(order.size):
        y, x = place // grid * side, place % grid * side
        from_y, from_x = order[place] // grid * side, order[place] % grid * side
        crop[y : y + side, x : x + side] = room[from_y : from_y + side, from_x : from_x + side]


@cached_njit(parallel=True, nogil=True, error_model="numpy", depends_on=(reference,))
def pixel_operations(crops_NSS3, table_NT, kernels_LT, fill_3, room_TSS3):
    """Fill in crops uint8 [N, S, S, 3]; `room_TSS3` has room for one crop of each thread."""
    for n in prange(len(crops_NSS3)):
        crop, row, room = crops_NSS3[n], table_NT[n], room_TSS3[get_thread_id()]
        if row[KIND] == GRAY:
            _make_gray(crop)
        elif row[KIND] == SOLARISE:
            _solarise(crop)
        elif row[KIND] == BLUR:
            size = crop.shape[0]
            _blur_columns(crop, room, kernels_LT[row[LEVEL]])
            _blur_rows(room.reshape(size, 3 * size), crop.reshape(size, 3 * size), kernels_LT[row[LEVEL]])
        if row[BRIGHTNESS] != ONE:
            _brightness(crop, np.int64(row[BRIGHTNESS]))
        if row[CONTRAST] != ONE:
            _contrast(crop, np.int64(row[CONTRAST]))
        if row[SATURATION] != ONE:
            _saturation(crop, np.int64(row[SATURATION]))
        if row.size > FIXED:
            _move_patches(crop, row[FIXED:], room)
        for y in range(row[TOP], row[BOTTOM]):
            for x in range(row[LEFT], row[RIGHT]):
                for c in range(3):
                    crop[y, x, c] = fill_3[c]
