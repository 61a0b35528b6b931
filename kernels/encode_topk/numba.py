"""encode_topk on the CPU: parallel over rows; one thread sums a row in class order, so in one way only."""

from __future__ import annotations

import math

import numba
import numpy as np

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

SORT_FROM = 320  # kept classes: from here a full sort of the row beats insertion (measured at C=1000)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _steps(nats, per_nat, largest):
    # Clamped before the conversion to an integer, which is undefined for infinity.
    return np.int64(min(max(nats * per_nat + 0.5, 0.0), float(largest)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _largest_by_insertion(row, ids):
    """Fill `ids` with the classes of the largest logits, downwards; of equal ones the lower one first."""
    values = np.empty(ids.size, row.dtype)
    filled = 0
    for j in range(row.size):
        value = row[j]
        if filled == ids.size:
            if not value > values[filled - 1]:
                continue
            at = filled - 1
        else:
            at = filled
            filled += 1
        while at > 0 and values[at - 1] < value:
            values[at] = values[at - 1]
            ids[at] = ids[at - 1]
            at -= 1
        values[at] = value
        ids[at] = j


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _encode_tail(row, ids, k, tail):
    """Write the codes of the tail. `ids` holds the K kept classes and then the highest one of the tail."""
    top, last, last_id = np.float64(row[ids[0]]), row[ids[k - 1]], ids[k - 1]
    highest = np.float64(row[ids[k]])
    tail_sum, gap_sum, defined = 0.0, 0.0, True
    for j in range(row.size):
        value = row[j]
        if value > last or (value == last and j <= last_id):
            continue
        tail_sum += math.exp(value - highest)
        gap_sum += top - value
        defined &= value != -np.inf
    kept_sum = 0.0
    for i in range(k):
        kept_sum += math.exp(row[ids[i]] - top)
    log_odds = (highest - top) + math.log(tail_sum) - math.log(kept_sum)
    tail[0] = ZERO_MASS
    if highest != -np.inf:
        tail[0] = 1 + _steps(log_odds + LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, LOG_ODDS_SPAN)
    tail[1] = UNDEFINED_MEAN_GAP
    if defined:
        tail[1] = _steps(gap_sum / (row.size - k), CODES_PER_NAT, LARGEST_MEAN_GAP)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _encode_row(row, classes, codes, tail):
    k = classes.size
    ids = np.empty(min(k + 1, row.size), np.int64)
    if k < SORT_FROM:
        _largest_by_insertion(row, ids)
    else:
        ids[:] = np.argsort(-row, kind="mergesort")[: ids.size]
    top = np.float64(row[ids[0]])
    for i in range(k):
        value = row[ids[i]]
        classes[i] = ids[i]
        codes[i] = ZERO_CODE if value == -np.inf else _steps(top - value, CODES_PER_NAT, SATURATED_CODE)
    if k < row.size:
        _encode_tail(row, ids, k, tail)
    else:
        tail[0] = ZERO_MASS
        tail[1] = UNDEFINED_MEAN_GAP


@numba.njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def encode_topk_numba(logits, classes, codes, tail):
    """Encode float32 or float64 logits [B, C] into the three given arrays: see `encode_topk`."""
    for b in numba.prange(logits.shape[0]):
        _encode_row(logits[b], classes[b], codes[b], tail[b])
