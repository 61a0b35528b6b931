"""The filter's weights along one axis, compact: only the inputs that an output reads."""

from __future__ import annotations

import numpy as np

from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.resized_crop import reference
from fastlabel.kernels.resized_crop.reference import WEIGHT_BITS

GROUP = 2  # taps are handled in pairs, see vectors.py


@cached_njit(nogil=True, depends_on=(reference,))
def taps_at_most(length, size):
    """How many input pixels one output pixel reads, at most, rounded up to pairs.

    They lie strictly inside a triangle that is 2 * max(length, size) / size pixels wide.
    """
    return (2 * max(length, size) + GROUP * size - 1) // (GROUP * size) * GROUP


@cached_njit(nogil=True, error_model="numpy", depends_on=(reference,))
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
