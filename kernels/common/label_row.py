"""Reads one label of either form, coded or weighted, as class ids, weights and the weight of every other class.

Both forms come as one type, so that a kernel is compiled once: a tuple (words, codes, tail, probs, rest, rows). Class
ids are 16-bit words, one or two for each. Coded labels leave probs and rest empty, weighted ones codes and tail; rows
are empty where labels are in the order of the batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastlabel.kernels import label_format
from fastlabel.kernels.decode_topk import numba as decode
from fastlabel.kernels.decode_topk.numba import _tail_log_weight, _weights_of_codes
from fastlabel.kernels.label_format import LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, ZERO_MASS
from fastlabel.kernels.numba_cache import cached_njit

_OPTIONS: dict[str, Any] = {"nogil": True, "depends_on": (decode, label_format), "error_model": "numpy"}


@cached_njit(**_OPTIONS)
def places(label):
    """Classes that each label lists, empty places included."""
    return max(label[1].shape[1], label[3].shape[1])


@cached_njit(**_OPTIONS)
def plane_row(label, b):
    """Where the label of row b of the batch lies; -1 where the plane ends before it."""
    row = label[5][b] if label[5].size else b
    return row if 0 <= row < label[0].shape[0] else -1


@cached_njit(**_OPTIONS)
def tables(temperature, num_classes):
    """What `read_label` needs beside the label."""
    return _weights_of_codes(temperature), _weights_of_codes(1.0), temperature, num_classes


@cached_njit(**_OPTIONS)
def read_label(label, row, decoding, ids, weights):
    """Fill ids (-1: an empty place) and weights; return the rest, the mass, and how many ids are out of range."""
    words, codes, tail, probs, rest, _ = label
    outside = _read_ids(words, row, probs.size > 0, decoding[3], ids, places(label))
    if codes.size:
        each, mass = _coded(codes, tail, row, decoding, weights)
    else:
        each, mass = _weighted(probs, rest, row, decoding[3], ids, weights)
    return each, mass, outside


@cached_njit(**_OPTIONS)
def _read_ids(words, row, may_be_empty, num_classes, ids, K):
    wide, outside = words.shape[1] > K, 0
    for i in range(K):
        ids[i] = np.int64(words[row, 2 * i]) | (np.int64(words[row, 2 * i + 1]) << 16) if wide else words[row, i]
        if ids[i] >= num_classes:
            outside += 0 if may_be_empty and ids[i] == 0xFFFFFFFF else 1
            ids[i] = -1
    return outside


@cached_njit(**_OPTIONS)
def _coded(codes, tail, row, decoding, weights):
    of_codes, of_codes_at_1, temperature, num_classes = decoding
    K = codes.shape[1]
    unlisted, kept = num_classes - K, 0.0
    for i in range(K):
        weights[i] = of_codes[codes[row, i]]
        kept += weights[i]
    scale, tail_weight = 1.0, 0.0
    if unlisted > 0 and tail[row, 0] != ZERO_MASS:
        if temperature == 1.0:  # the stored log-odds as they are: no logarithm there and back
            odds = math.exp((np.int64(tail[row, 0]) - 1) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET)
            tail_weight = odds * kept / unlisted
        else:
            lam = _tail_log_weight(codes[row], tail[row], of_codes_at_1, math.log(unlisted), temperature)
            scale, tail_weight = math.exp(-max(lam, 0.0)), math.exp(min(lam, 0.0))
    share = 1 / (scale * kept + unlisted * tail_weight)
    for i in range(K):
        weights[i] *= scale * share
    return tail_weight * share, 1.0


@cached_njit(**_OPTIONS)
def _weighted(probs, rest, row, num_classes, ids, weights):
    mass, unlisted = 0.0, num_classes
    for i in range(probs.shape[1]):
        weights[i] = 0.0
        if ids[i] >= 0:
            weights[i] = probs[row, i]
            mass += weights[i]
            unlisted -= 1
    each = np.float64(rest[row])
    return each, mass + unlisted * each
