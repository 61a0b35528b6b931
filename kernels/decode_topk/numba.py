"""decode_topk on the CPU: parallel over rows. The exponentials of the 256 codes come from two tables."""

from __future__ import annotations

import math

import numba
import numpy as np

from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _weights_of_codes(temperature):
    weights = np.empty(256)
    for code in range(256):
        weights[code] = math.exp(-(code / CODES_PER_NAT) / temperature)
    weights[ZERO_CODE] = 0.0
    return weights


@numba.njit(nogil=True, cache=True, error_model="numpy")
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


@numba.njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def decode_topk_numba(classes, codes, tail, temperature, out):
    """Write probabilities into `out` [B, C], float32; return how many class ids lie outside it (skipped)."""
    num_classes = out.shape[1]
    rest = num_classes - classes.shape[1]
    log_rest = math.log(max(rest, 1))
    weights, weights_at_1 = _weights_of_codes(temperature), _weights_of_codes(1.0)
    outside = 0
    for b in numba.prange(out.shape[0]):
        scale, tail_weight = 1.0, 0.0
        if rest > 0 and tail[b, 0] != ZERO_MASS:
            lam = _tail_log_weight(codes[b], tail[b], weights_at_1, log_rest, temperature)
            scale, tail_weight = math.exp(-max(lam, 0.0)), math.exp(min(lam, 0.0))
        total = rest * tail_weight
        for i in range(classes.shape[1]):
            total += scale * weights[codes[b, i]]
        out[b, :] = tail_weight / total
        for i in range(classes.shape[1]):
            if classes[b, i] < num_classes:
                out[b, classes[b, i]] = scale * weights[codes[b, i]] / total
            else:
                outside += 1
    return outside
