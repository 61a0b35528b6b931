"""Reads one label of either form, coded or weighted, as class ids, weights and the weight of every other class.

Both forms come as one type, so that a kernel is compiled once: a tuple (words, codes, tail, probs, rest, rows). Class
ids are 16-bit words, one or two for each. Coded labels leave probs and rest empty, weighted ones codes and tail; rows
are empty where labels are in the order of the batch.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fastlabel.kernels.decode_topk.numba import _tail_log_weight, _weights_of_codes
from fastlabel.kernels.label_format import ZERO_MASS

_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}


@numba.njit(**_OPTIONS)
def places(label):
    """Classes that each label lists, empty places included."""
    return max(label[1].shape[1], label[3].shape[1])


@numba.njit(**_OPTIONS)
def plane_row(label, b):
    """Where the label of row b of the batch lies; -1 where the plane ends before it."""
    row = label[5][b] if label[5].size else b
    return row if 0 <= row < label[0].shape[0] else -1


@numba.njit(**_OPTIONS)
def tables(temperature, num_classes):
    """What `read_label` needs beside the label."""
    return _weights_of_codes(temperature), _weights_of_codes(1.0), temperature, num_classes


@numba.njit(**_OPTIONS)
def read_label(label, row, decoding, ids, weights):
    """Fill ids (-1: an empty place) and weights; return the rest, the mass, and how many ids are out of range."""
    words, K = label[0][row], places(label)
    per_class = words.size // K
    num_classes, outside = decoding[3], 0
    for i in range(K):
        ids[i] = np.int64(words[i * per_class])
        if per_class == 2:
            ids[i] |= np.int64(words[2 * i + 1]) << 16
        if ids[i] >= num_classes:
            empty = label[3].size > 0 and ids[i] == 0xFFFFFFFF
            outside += 0 if empty else 1
            ids[i] = -1
    if label[1].size:
        rest, mass = _coded(label[1][row], label[2][row], decoding, weights)
    else:
        rest, mass = _weighted(label[3][row], label[4][row], num_classes, ids, weights)
    return rest, mass, outside


@numba.njit(**_OPTIONS)
def _coded(codes, tail, decoding, weights):
    of_codes, of_codes_at_1, temperature, num_classes = decoding
    unlisted = num_classes - codes.size
    scale, tail_weight = 1.0, 0.0
    if unlisted > 0 and tail[0] != ZERO_MASS:
        lam = _tail_log_weight(codes, tail, of_codes_at_1, math.log(unlisted), temperature)
        scale, tail_weight = math.exp(-max(lam, 0.0)), math.exp(min(lam, 0.0))
    total = unlisted * tail_weight
    for i in range(codes.size):
        weights[i] = scale * of_codes[codes[i]]
        total += weights[i]
    for i in range(codes.size):
        weights[i] /= total
    return tail_weight / total, 1.0


@numba.njit(**_OPTIONS)
def _weighted(probs, rest, num_classes, ids, weights):
    mass, unlisted = 0.0, num_classes
    for i in range(probs.size):
        weights[i] = 0.0
        if ids[i] >= 0:
            weights[i] = probs[i]
            mass += weights[i]
            unlisted -= 1
    each = np.float64(rest)
    return each, mass + unlisted * each
