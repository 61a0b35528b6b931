"""transform_cross_entropy on the CPU: what follows the product with the basis, row by row, in place.

A row of z comes as the transform says it. It becomes the target's weights, then the gradient, while it stays in the
cache. Exponentials are kept and scaled, not computed again: two of each class at T = 1, three at another temperature.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from fastlabel.kernels import label_format
from fastlabel.kernels.common.exp32 import exp32
from fastlabel.kernels.label_format import CODES_PER_NAT, LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, ZERO_CODE, ZERO_MASS
from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.soft_cross_entropy import numba as loss_file
from fastlabel.kernels.soft_cross_entropy.numba import _load, _store, _sum_exp, _top_of_float32

_TILE = 1024  # classes whose sum stays in float32
_SUM = {"reassoc", "contract", "nsz"}
_OPTIONS: dict[str, Any] = {"nogil": True, "depends_on": (loss_file, label_format), "error_model": "numpy"}


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _exponentials(values, top, scale):
    """Replace values by exp(scale * (value - top)); return their sum."""
    total = 0.0
    for start in range(0, values.size, _TILE):
        tile, part = values[start : start + _TILE], np.float32(0)
        for j in range(tile.size):
            e = exp32((tile[j] - top) * scale)
            tile[j] = e
            part += e
        total += part
    return total


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _sum_of_exponentials(values, top):
    total = 0.0
    for start in range(0, values.size, _TILE):
        tile, part = values[start : start + _TILE], np.float32(0)
        for j in range(tile.size):
            part += exp32(tile[j] - top)
        total += part
    return total


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _mean_exponent(values, top, scale):
    """The sum of w ln w of the weights that `_exponentials` would make."""
    total = 0.0
    for start in range(0, values.size, _TILE):
        tile, part = values[start : start + _TILE], np.float32(0)
        for j in range(tile.size):
            x = (tile[j] - top) * scale
            e = exp32(x)
            part += e * x if e > 0 else np.float32(0)
        total += part
    return total


@cached_njit(**_OPTIONS)
def _gap(code):
    return math.inf if code == ZERO_CODE else code / CODES_PER_NAT


@cached_njit(**_OPTIONS)
def _target(z, words, codes, tail, temperature, kl):
    """Replace z by weights; return their sum, the sum of w ln w if kl is asked, and how many class ids are bad."""
    K, bad, kept = codes.size, 0, 0.0
    wide = words.size > K
    for i in range(K):
        j = np.int64(words[2 * i]) | (np.int64(words[2 * i + 1]) << 16) if wide else np.int64(words[i])
        if j >= z.size:
            bad += 1
        else:
            z[j] = -np.inf
        kept += math.exp(-_gap(codes[i]))
    if bad:
        return 1.0, 0.0, bad
    top = _top_of_float32(z)
    scale = np.float32(max(min(1 / temperature, 1e37), 1e-37))
    has_tail = tail[0] != ZERO_MASS and top > -np.inf
    log_odds = (np.int64(tail[0]) - 1) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    total, exponents, ceiling, factor = 0.0, 0.0, 0.0, 1.0
    if has_tail and temperature == 1:
        if kl:
            exponents = _mean_exponent(z, top, np.float32(1))
        at_1 = _exponentials(z, top, np.float32(1))
        # The top class of the tail, in nats above the head's.
        height = log_odds + math.log(kept) - math.log(at_1)
        total = at_1
    elif has_tail:
        height = log_odds + math.log(kept) - math.log(_sum_of_exponentials(z, top))
        if kl:
            exponents = _mean_exponent(z, top, scale)
        total = _exponentials(z, top, scale)
    else:
        z[:] = 0
        height = 0.0
    if has_tail:
        # Weights are relative to the largest of all: the tail's may have to shrink for that, or the head's.
        ceiling = max(height, 0.0)
        lower = (height - ceiling) * np.float64(scale)
        factor = math.exp(lower)
        exponents = factor * (exponents + lower * total) if factor > 0 else 0.0
        total *= factor
        if factor != 1:
            _scale(z, np.float32(factor))
    for i in range(K):
        j = np.int64(words[2 * i]) | (np.int64(words[2 * i + 1]) << 16) if wide else np.int64(words[i])
        x = (-_gap(codes[i]) - ceiling) * np.float64(scale)
        w = math.exp(x)
        z[j] = w
        total += w
        if w > 0:
            exponents += w * x
    return total, exponents, 0


@cached_njit(**_OPTIONS)
def _scale(values, factor):
    for j in range(values.size):
        values[j] *= factor


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _loss(weights, gaps, scale, log_sum, share):
    """The sum of p (scale gap + log_sum), p = share * weight."""
    total = 0.0
    for start in range(0, weights.size, _TILE):
        tile, gap, part = weights[start : start + _TILE], gaps[start : start + _TILE], np.float32(0)
        for j in range(tile.size):
            term = tile[j] * (gap[j] * scale)
            part += term if tile[j] > 0 else np.float32(0)
        total += part
    return total * share + log_sum


@cached_njit(fastmath={"contract"}, **_OPTIONS)
def _gradient(weights, gaps, scale, log_sum, factor, share):
    """Replace weights by factor * (softmax - share * weight)."""
    log_sum, factor, share = np.float32(log_sum), np.float32(factor), np.float32(factor * share)
    for j in range(weights.size):
        weights[j] = factor * exp32(-(gaps[j] * scale) - log_sum) - share * weights[j]


@cached_njit(parallel=True, **_OPTIONS)
def rows_of_loss(logits, kind, z, words, codes, tail, temperatures, kl, factor, loss, gradient, parts):
    """Fill `loss` float32 [n], and `gradient` (words as `logits`, or [0, 0] where none is asked) times `factor`.

    Args:
        logits: 16-bit words [n, ...] of C logits each, of the given kind, as soft_cross_entropy takes them.
        z: float32 [n, C], coefficients times basis; overwritten. It may be the memory of the gradient.
        words, codes, tail: of the labels. temperatures: of label and student.

    Returns how many class ids are out of range.
    """
    n, C = z.shape
    scale, bad = np.float32(1 / temperatures[1]), 0
    for part in numba.prange(parts):
        buffer, gaps = np.empty(C, np.float32), np.empty(C, np.float32)
        for b in range(n * part // parts, n * (part + 1) // parts):
            row = _load(logits[b], kind, buffer)
            log_sum = math.log(_sum_exp(row, _top_of_float32(row), scale, gaps))
            total, exponents, outside = _target(z[b], words[b], codes[b], tail[b], temperatures[0], kl)
            bad += outside
            value = _loss(z[b], gaps, scale, log_sum, 1 / total)
            if kl:
                value += exponents / total - math.log(total)
            loss[b] = value
            if gradient.shape[0]:
                _gradient(z[b], gaps, scale, log_sum, factor / temperatures[1], 1 / total)
                _store(z[b], kind, gradient[b])
    return bad
