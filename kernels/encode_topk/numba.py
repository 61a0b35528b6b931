"""encode_topk on the CPU: parallel over rows, each row by one thread, its exponentials in vector instructions.

Every function is compiled for one set of types: float32 logits, and class ids as 16-bit words.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from fastlabel.kernels import label_format
from fastlabel.kernels.encode_topk import weight
from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LARGEST_MEAN_GAP,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    LOG_ODDS_SPAN,
    SATURATED_CODE,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
)
from fastlabel.kernels.numba_cache import cached_njit

SORT_FROM = 384  # kept classes: from here sorting the whole row beats insertion (measured at C=1000)
BLOCK = 64  # logits that are compared at once with the least of the kept ones

_LOG2_E, _LARGEST_POWER, _ONE, _ZERO = (np.float32(x) for x in (weight.LOG2_E, weight.LARGEST_POWER, 1.0, 0.0))
_C1, _C2, _C3, _C4, _C5 = (np.float32(c) for c in (weight.C1, weight.C2, weight.C3, weight.C4, weight.C5))
_LOWEST = np.int64(-(1 << 63))
_LOW_WORD = np.int64(0xFFFFFFFF)
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "depends_on": (label_format, weight)}


@cached_njit(**_OPTIONS)
def _steps(nats, per_nat, largest):
    # Clamped before the conversion to an integer, which is undefined for infinity.
    return np.int64(min(max(nats * per_nat + 0.5, 0.0), float(largest)))


@cached_njit(**_OPTIONS)
def _weight(gap):
    """weight.py, operation by operation: no contraction into FMA, which would round differently."""
    power = min(gap * _LOG2_E, _LARGEST_POWER)
    whole = np.int32(power)
    f = power - np.float32(whole)
    p = ((((f * _C5 + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _ONE
    return p * np.int32((127 - whole) << 23).view(np.float32)


@cached_njit(**_OPTIONS)
def _order(bits, ordered):
    """Integers in the order of the float32 logits with these bits, -0.0 as 0.0; NaN has a place too."""
    for j in range(bits.size):
        order = bits[j] ^ ((bits[j] >> 31) & np.int32(0x7FFFFFFF))
        ordered[j] = np.int32(0) if order == -1 else order


@cached_njit(**_OPTIONS)
def _key(ordered, j):
    """Unique keys: a larger logit first, of equal ones the lower class."""
    return (np.int64(ordered[j]) << 32) | (_LOW_WORD - j)


@cached_njit(**_OPTIONS)
def _class(key):
    return _LOW_WORD - (key & _LOW_WORD)


@cached_njit(**_OPTIONS)
def _insert(keys, key):
    """Put a key into its place; the lowest one falls out. Without branches, so that it is vector instructions."""
    for i in range(keys.size - 1, 0, -1):
        keys[i] = max(keys[i], min(keys[i - 1], key))
    keys[0] = max(keys[0], key)


@cached_njit(**_OPTIONS)
def _count_above(ordered, limit):
    count = np.int32(0)
    for i in range(ordered.size):
        count += np.int32(ordered[i] > limit)
    return count


@cached_njit(**_OPTIONS)
def _largest_by_insertion(ordered, keys):
    """Fill `keys` with the largest keys of a row, downwards. Most blocks of a long row are only counted."""
    keys[:] = _LOWEST
    for j in range(keys.size):
        _insert(keys, _key(ordered, j))
    limit = np.int32(keys[keys.size - 1] >> 32)
    for start in range(keys.size, ordered.size, BLOCK):
        block = ordered[start : start + BLOCK]
        if _count_above(block, limit) == 0:  # a later class of an equal logit stays out
            continue
        for i in range(block.size):
            if block[i] > limit:
                _insert(keys, _key(ordered, start + i))
                limit = np.int32(keys[keys.size - 1] >> 32)


@cached_njit(**_OPTIONS)
def _largest_by_sort(ordered, keys):
    """Fill `keys` with the largest keys of a row, downwards."""
    whole_row = np.empty(ordered.size, np.int64)
    for j in range(ordered.size):
        whole_row[j] = _key(ordered, j)
    whole_row.sort()
    for i in range(keys.size):
        keys[i] = whole_row[ordered.size - 1 - i]


# Only the order of the sums is left to the compiler; each term is rounded as written.
@cached_njit(fastmath={"reassoc"}, **_OPTIONS)
def _sum_tail(row, highest):
    """Sum of weights and of gaps below `highest` over all classes, and how many are at -inf.

    The kept classes are not below: each adds a weight of exactly 1 and a gap of 0.
    """
    weights, gaps, holes = 0.0, 0.0, 0
    for j in range(row.size):
        gap = max(highest - row[j], _ZERO)
        weights += np.float64(_weight(gap))
        gaps += np.float64(gap)
        holes += row[j] == -np.inf
    return weights, gaps, holes


@cached_njit(**_OPTIONS)
def _encode_tail(row, top, highest, kept_sum, k, tail):
    weights, gaps, holes = _sum_tail(row, highest)
    drop = np.float64(top) - np.float64(highest)
    log_odds = (math.log(weights - k) - math.log(kept_sum)) - drop
    tail[0] = 1 + _steps(log_odds + LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, LOG_ODDS_SPAN)
    if holes == 0:
        tail[1] = _steps(drop + gaps / (row.size - k), CODES_PER_NAT, LARGEST_MEAN_GAP)


@cached_njit(**_OPTIONS)
def _encode_row(row, k, words, codes, tail):
    ordered = np.empty(row.size, np.int32)
    keys = np.empty(min(k + 1, row.size), np.int64)
    _order(row.view(np.int32), ordered)
    if k < SORT_FROM:
        _largest_by_insertion(ordered, keys)
    else:
        _largest_by_sort(ordered, keys)
    top, kept_sum = row[_class(keys[0])], 0.0
    per_class = words.size // k
    for i in range(k):
        j = _class(keys[i])
        words[i * per_class] = j & 0xFFFF
        if per_class == 2:
            words[i * per_class + 1] = j >> 16
        codes[i] = _steps(np.float64(top) - np.float64(row[j]), CODES_PER_NAT, SATURATED_CODE)
        if row[j] == -np.inf:
            codes[i] = ZERO_CODE
        kept_sum += np.float64(_weight(top - row[j]))
    tail[0], tail[1] = ZERO_MASS, UNDEFINED_MEAN_GAP
    if k < row.size:
        highest = row[_class(keys[k])]
        if highest != -np.inf:
            _encode_tail(row, top, highest, kept_sum, k, tail)


@cached_njit(parallel=True, **_OPTIONS)
def encode_topk_numba(logits, words, codes, tail):
    """Encode float32 logits [B, C] into the three given arrays: see `encode_topk`.

    `words` is uint16 [B, K], or [B, 2 K] for class ids of 32 bits, the lower half first.
    """
    for b in numba.prange(logits.shape[0]):
        _encode_row(logits[b], codes.shape[1], words[b], codes[b], tail[b])
