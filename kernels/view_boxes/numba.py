"""Boxes of many samples at once. Integers and one IEEE-exact square root, so that machines agree."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.view_boxes import reference
from fastlabel.kernels.view_boxes.reference import ATTEMPTS, CENTER, PAD_CROP, RANDOM_RESIZED_CROP

# numba turns uint64 with int64 into float64: every constant below is a uint64.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ONE = np.uint64(1)


@njit(inline="always")
def philox(sample, view, last, seed):
    """Four random words as uint64, each below 2**32."""
    c0, c1, c2, c3 = sample & _WORD, sample >> _32, view, last
    k0, k1 = seed & _WORD, seed >> _32
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0 = (p1 >> _32) ^ c1 ^ k0
        c1 = p1 & _WORD
        c2 = (p0 >> _32) ^ c3 ^ k1
        c3 = p0 & _WORD
        k0 = (k0 + _W0) & _WORD
        k1 = (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@njit(inline="always")
def _isqrt(x):
    root = np.uint64(math.sqrt(np.float64(x)))
    while root * root > x:
        root -= _ONE
    while (root + _ONE) * (root + _ONE) <= x:
        root += _ONE
    return root


@njit(inline="always")
def _below(word, bound):
    """A uniform integer below ``bound`` from a 32-bit word."""
    return np.int64((word * np.uint64(bound)) >> _32)


@njit
def _random_resized_crop(p, aspects_q16, seed, view, sample, height, width):
    flip = np.int64(0)
    for attempt in range(ATTEMPTS):
        u_area, u_aspect, u_top, u_left = philox(sample, view, np.uint64(attempt), seed)
        if attempt == 0 and p[4] != 0:
            flip = np.int64(u_aspect & _ONE)
        fraction_q24 = np.uint64(p[0]) + ((np.uint64(p[1] - p[0]) * u_area) >> _32)
        side_q12 = np.int64(_isqrt(np.uint64(height * width) * fraction_q24))
        aspect_q16 = np.int64(aspects_q16[np.int64(u_aspect >> np.uint64(24))])
        w = (side_q12 * aspect_q16 + (1 << 27)) >> 28
        h = (32 * side_q12 + aspect_q16) // (2 * aspect_q16)
        if 0 < w <= width and 0 < h <= height:
            return _below(u_top, height - h + 1), _below(u_left, width - w + 1), h, w, flip
    h, w = height, width
    if (width << 16) < p[2] * height:
        h = min(height, (2 * (width << 16) + p[2]) // (2 * p[2]))
    elif (width << 16) > p[3] * height:
        w = min(width, (height * p[3] + (1 << 15)) >> 16)
    h, w = max(np.int64(1), h), max(np.int64(1), w)
    return (height - h) // 2, (width - w) // 2, h, w, flip


@njit
def _pad_crop(p, size, seed, view, sample, height, width):
    rows, columns = height + 2 * p[0] - size + 1, width + 2 * p[0] - size + 1
    zero = np.int64(0)
    if rows < 1 or columns < 1:
        return zero, zero, zero, zero, zero
    _, u_flip, u_top, u_left = philox(sample, view, np.uint64(0), seed)
    flip = np.int64(u_flip & _ONE) if p[1] != 0 else zero
    return _below(u_top, rows) - p[0], _below(u_left, columns) - p[0], size, size, flip


@njit
def _box(kind, p, aspects_q16, size, seed, view, sample, height, width):
    zero = np.int64(0)
    if kind == RANDOM_RESIZED_CROP:
        return _random_resized_crop(p, aspects_q16, seed, view, sample, height, width)
    if kind == PAD_CROP:
        return _pad_crop(p, size, seed, view, sample, height, width)
    if kind == CENTER:
        side = max(np.int64(1), (2 * min(height, width) * p[0] + p[1]) // (2 * p[1]))
        return (height - side) // 2, (width - side) // 2, side, side, zero
    return zero, zero, height, width, zero


@cached_njit(parallel=True, nogil=True, error_model="numpy", depends_on=(reference,))
def view_boxes(kind, p, aspects_q16, size, seed, view, ids, heights, widths, out):
    """Fill out int32 [B, 5] with top, left, height, width, flip."""
    for b in prange(len(ids)):
        box = _box(kind, p, aspects_q16, size, seed, view, np.uint64(ids[b]), np.int64(heights[b]), np.int64(widths[b]))
        for i in range(5):
            out[b, i] = box[i]


@cached_njit(parallel=True, nogil=True, error_model="numpy", depends_on=(reference,))
def random_keys(seed, stream, index, ids, out):
    """Fill out uint64 [B] with a random key for each id, for sorting into a random order."""
    last = np.uint64(stream) << np.uint64(16)
    for b in prange(len(ids)):
        w0, w1, _, _ = philox(np.uint64(ids[b]), index, last, seed)
        out[b] = (w0 << _32) | w1
