"""decode_topk on the CPU: parallel over rows. The exponentials of the 256 codes come from two tables.

Every function is compiled for one set of types: class ids come as 16-bit words.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from fastlabel.kernels import label_format
from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    TAIL_MODELS,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
)
from fastlabel.kernels.numba_cache import cached_njit

UNIFORM, RENORMALISE, ZERO = range(3)
assert TAIL_MODELS == ("uniform", "renormalise", "zero")

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "depends_on": (label_format,)}


@cached_njit(**_OPTIONS)
def _weights_of_codes(temperature):
    weights = np.empty(256)
    for code in range(256):
        weights[code] = math.exp(-(code / CODES_PER_NAT) / temperature)
    weights[ZERO_CODE] = 0.0
    return weights


@cached_njit(**_OPTIONS)
def _tail_log_weight(codes, tail, weights_at_1, log_rest, temperature):
    """Log-weight of one tail class relative to the top class: the algebra of reference.py, for one row."""
    kept, last = 0.0, 0
    for code in codes:
        kept += weights_at_1[code]
        if code != ZERO_CODE:
            last = max(last, np.int64(code))
    log_odds = (np.int64(tail[0]) - 1) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    lam1 = log_odds + math.log(kept) - log_rest
    if temperature == 1.0:
        return lam1
    gamma = tail[1] / CODES_PER_NAT
    delta = lam1 + gamma
    lam = lam1 / temperature
    if tail[1] != UNDEFINED_MEAN_GAP and delta >= 0:
        lam = (delta / temperature - gamma) / temperature
    if temperature < 1.0:
        lam = min(lam, max(-last / CODES_PER_NAT, lam1) / temperature)
    return lam


@cached_njit(**_OPTIONS)
def _decode_row(words, codes, scale, tail_weight, rest, weights, tail_model, out):
    """Write one row; return how many class ids lie outside it (skipped)."""
    total, outside = rest * tail_weight, 0
    for code in codes:
        total += scale * weights[code]
    out[:] = 0.0 if tail_model == ZERO else tail_weight / total
    per_class = words.size // codes.size
    for i in range(codes.size):
        j = np.int64(words[i * per_class])
        if per_class == 2:
            j |= np.int64(words[i * per_class + 1]) << 16
        if j < out.size:
            out[j] = scale * weights[codes[i]] / total
        else:
            outside += 1
    return outside


@cached_njit(parallel=True, **_OPTIONS)
def decode_topk_numba(words, codes, tail, rows, temperature, tail_model, out):
    """Write the probabilities of the labels `rows` of a plane into `out` [B, C], float32.

    `words` are class ids as uint16 [P, K], or [P, 2 K] for ids of 32 bits, the lower half first. Returns how many
    class ids lie outside of `out`, and how many rows outside of the plane: all are skipped.
    """
    rest = out.shape[1] - codes.shape[1]
    log_rest = math.log(max(rest, 1))
    weights, weights_at_1 = _weights_of_codes(temperature), _weights_of_codes(1.0)
    bad_classes, bad_rows = 0, 0
    for b in numba.prange(out.shape[0]):
        row = rows[b]
        if row < 0 or row >= codes.shape[0]:
            bad_rows += 1
            continue
        scale, tail_weight = 1.0, 0.0
        if rest > 0 and tail[row, 0] != ZERO_MASS and tail_model != RENORMALISE:
            lam = _tail_log_weight(codes[row], tail[row], weights_at_1, log_rest, temperature)
            scale, tail_weight = math.exp(-max(lam, 0.0)), math.exp(min(lam, 0.0))
        bad_classes += _decode_row(words[row], codes[row], scale, tail_weight, rest, weights, tail_model, out[b])
    return bad_classes, bad_rows
