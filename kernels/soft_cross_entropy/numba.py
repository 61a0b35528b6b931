"""soft_cross_entropy on the CPU: parallel over rows. A row that was read once stays in the cache for its later passes.

Gaps are the top logit minus each logit: from 0 up, so that a loss is a sum of terms none of which is negative, and
nothing cancels. Sums go through float32 over at most 1,024 classes, then through float64.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from fastlabel.kernels.common import exp32 as exp32_file
from fastlabel.kernels.common import half, label_row
from fastlabel.kernels.common.exp32 import exp32, float_of_bits
from fastlabel.kernels.common.half import narrow_to_bfloat16, narrow_to_float16, widen_bfloat16, widen_float16
from fastlabel.kernels.common.label_row import places, plane_row, read_label, tables
from fastlabel.kernels.numba_cache import cached_njit

FLOAT, BFLOAT16, FLOAT16 = range(3)  # what the 16-bit words of logits are; FLOAT: the dtype of the losses

_TILE = 1024  # classes
_SIGN_BIT, _ALL_BUT_SIGN = np.int32(31), np.int32(0x7FFFFFFF)
_SUM = {"reassoc", "contract", "nsz"}  # what LLVM needs to vectorise a sum; NaN and infinity keep their meaning
_OPTIONS: dict[str, Any] = {"nogil": True, "depends_on": (exp32_file, half, label_row), "error_model": "numpy"}


def _exp(x):
    raise NotImplementedError("for use in Numba kernels")


@overload(_exp)
def _exp_overload(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@cached_njit(**_OPTIONS)
def _ordered(bits):
    """Maps the bits of a float32 to integers in the same order, and back; a positive NaN is above infinity."""
    return bits ^ ((bits >> _SIGN_BIT) & _ALL_BUT_SIGN)


@cached_njit(**_OPTIONS)
def _top_of_float32(row):
    # A maximum of integers is vectorised; one of floats is not, for NaN's sake.
    bits = row.view(np.int32)
    top = _ordered(bits[0])
    for j in range(bits.size):
        top = max(top, _ordered(bits[j]))
    return float_of_bits(_ordered(top))


def _top(row):
    raise NotImplementedError("for use in Numba kernels")


@overload(_top)
def _top_overload(row):
    return (lambda row: _top_of_float32(row)) if row.dtype == types.float32 else (lambda row: row.max())


@cached_njit(**_OPTIONS)
def _load(words, kind, buffer):
    """A row of logits as numbers to compute with: itself, or converted into the buffer."""
    if kind == BFLOAT16:
        widen_bfloat16(words, buffer.view(np.float32))
    elif kind == FLOAT16:
        widen_float16(words, buffer.view(np.float32))
    return words.view(buffer.dtype) if kind == FLOAT else buffer


@cached_njit(**_OPTIONS)
def _store(values, kind, words):
    """Round a row of results, computed in the buffer, unless it was computed in place."""
    if kind == BFLOAT16:
        narrow_to_bfloat16(values.view(np.float32), words)
    elif kind == FLOAT16:
        narrow_to_float16(values.view(np.float32), words)


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _sum_exp(row, top, scale, gaps):
    """Fill gaps with top - row; return the sum of exp(-scale * gap)."""
    total = 0.0
    for start in range(0, row.size, _TILE):
        # Slices, and loops from 0: LLVM vectorises no loop in which an index might be negative.
        tile, gap = row[start : start + _TILE], gaps[start : start + _TILE]
        part = gaps.dtype.type(0)
        for j in range(tile.size):
            g = top - tile[j]
            gap[j] = g
            part += _exp(-(g * scale))
        total += part
    return total


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _wide_sum(values):
    total = 0.0
    for j in range(values.size):
        total += np.float64(values[j])
    return total


@cached_njit(fastmath=_SUM, **_OPTIONS)
def _sum(values):
    total = 0.0
    for start in range(0, values.size, _TILE):
        tile, part = values[start : start + _TILE], values.dtype.type(0)
        for j in range(tile.size):
            part += tile[j]
        # Gaps of masked logits, such as -1e38, may be finite each and not their sum in float32.
        total += np.float64(part) if part < np.inf else _wide_sum(tile)
    return total


@cached_njit(fastmath={"contract"}, **_OPTIONS)
def _softmax(row, stats, scale, factor, base, out):
    """Fill out with factor * softmax(row) - base."""
    top, log_sum = stats[0], stats[1]
    factor, base = out.dtype.type(factor), out.dtype.type(base)
    for j in range(row.size):
        out[j] = factor * _exp((row[j] - top) * scale - log_sum) - base


@cached_njit(**_OPTIONS)
def _label_loss(label, b, share, decoding, gaps, scale, log_sum, scratch):
    """A label's share of row b's loss; how many rows and class ids are out of range. Gaps are left as they came.

    What a label that lists a class twice asks is undefined.
    """
    ids, weights, kept = scratch
    row = plane_row(label, b)
    if row < 0:
        return np.nan, 1, 0
    rest, mass, outside = read_label(label, row, decoding, ids, weights)
    loss = mass * log_sum
    for i in range(places(label)):
        if ids[i] >= 0:
            kept[i] = gaps[ids[i]]
            gaps[ids[i]] = 0
            # A weight of zero asks nothing: 0 * inf is 0 here.
            if weights[i] != 0:
                loss += weights[i] * scale * kept[i]
    if rest != 0:
        loss += rest * scale * _sum(gaps)
    # In reverse, so that gaps come back also where a label lists a class twice.
    for i in range(places(label) - 1, -1, -1):
        if ids[i] >= 0:
            gaps[ids[i]] = kept[i]
    return (share * loss if share != 0 else 0.0), 0, outside


@cached_njit(**_OPTIONS)
def _shares(b, mix, hard, hard_weight):
    """How much of row b's target the first label, the second and the hard target make up."""
    hard_share = np.float64(hard_weight[b]) if hard.size else 0.0
    first = np.float64(mix[b]) if mix.size else 1.0
    return (1 - hard_share) * first, (1 - hard_share) * (1 - first), hard_share


@cached_njit(**_OPTIONS)
def _scratch(first, second):
    K = max(places(first), places(second))
    return np.empty(K, np.int64), np.empty(K), np.empty(K)


@cached_njit(parallel=True, **_OPTIONS)
def forward(logits, kind, first, second, mix, hard, hard_weight, temperatures, loss, stats, parts):
    """Fill `loss` [B] and `stats` [B, 2] (top logit, and log-sum-exp above it), both float32 or both float64.

    `logits` are 16-bit words [B, ...] of C logits each, of the given kind. Threads share `parts` ranges of rows.
    `first` and `second` are labels as label_row takes them; mix and hard of size 0 stand for none. Returns how many
    rows, class ids and targets are out of range.
    """
    B, C = logits.shape[0], logits.shape[1] // (1 if kind != FLOAT else loss.itemsize // 2)
    scale = loss.dtype.type(1 / temperatures[1])
    decoding = tables(temperatures[0], C)
    bad_rows, bad_ids, bad_targets = 0, 0, 0
    for part in numba.prange(parts):
        buffer, gaps = np.empty(C, loss.dtype), np.empty(C, loss.dtype)
        scratch = _scratch(first, second)
        for b in range(B * part // parts, B * (part + 1) // parts):
            row = _load(logits[b], kind, buffer)
            top = _top(row)
            log_sum = math.log(_sum_exp(row, top, scale, gaps))
            share, second_share, hard_share = _shares(b, mix, hard, hard_weight)
            value, rows, ids = _label_loss(first, b, share, decoding, gaps, scale, log_sum, scratch)
            total, bad_rows, bad_ids = value, bad_rows + rows, bad_ids + ids
            if mix.size:
                value, rows, ids = _label_loss(second, b, second_share, decoding, gaps, scale, log_sum, scratch)
                total, bad_rows, bad_ids = total + value, bad_rows + rows, bad_ids + ids
            if hard.size:
                if not 0 <= hard[b] < C:
                    bad_targets += 1
                elif hard_share != 0:
                    total += hard_share * (log_sum + scale * gaps[hard[b]])
            loss[b] = total
            stats[b, 0] = top
            stats[b, 1] = log_sum
    return bad_rows, bad_ids, bad_targets


@cached_njit(**_OPTIONS)
def _read(label, b, decoding, ids, weights):
    """As read_label, for row b of the batch; the rest is NaN where that row or a class id is out of range."""
    row = plane_row(label, b)
    if row < 0:
        ids[:] = -1
        return np.nan, 0.0
    rest, mass, outside = read_label(label, row, decoding, ids, weights)
    return (rest if outside == 0 else np.nan), mass


@cached_njit(**_OPTIONS)
def _subtract_listed(gradient, label, ids, weights, rest, factor):
    for i in range(places(label)):
        if ids[i] >= 0:
            gradient[ids[i]] -= factor * (weights[i] - rest)


@cached_njit(parallel=True, **_OPTIONS)
def backward(grad, logits, kind, stats, first, second, mix, hard, hard_weight, temperatures, gradient, parts):
    """Fill `gradient`, words as `logits`, from `grad` [B], the gradient in the losses; the rest as in `forward`.

    (mass * softmax - target) / student temperature: first for all classes as if no label listed any, then corrected
    at those that they list. `forward` has checked the values; should one be out of range now, that row is NaN.
    """
    B, C = logits.shape[0], logits.shape[1] // (1 if kind != FLOAT else stats.itemsize // 2)
    scale = stats.dtype.type(1 / temperatures[1])
    decoding = tables(temperatures[0], C)
    for part in numba.prange(parts):
        buffer, out_buffer = np.empty(C, stats.dtype), np.empty(C, stats.dtype)
        ids, weights, _ = _scratch(first, second)
        second_ids, second_weights, _ = _scratch(first, second)
        for b in range(B * part // parts, B * (part + 1) // parts):
            row = _load(logits[b], kind, buffer)
            out = gradient[b].view(stats.dtype) if kind == FLOAT else out_buffer
            factor = np.float64(grad[b]) / temperatures[1]
            share, second_share, hard_share = _shares(b, mix, hard, hard_weight)
            rest, mass = _read(first, b, decoding, ids, weights)
            base, total = share * rest, share * mass + hard_share
            second_rest = 0.0
            if mix.size:
                second_rest, mass = _read(second, b, decoding, second_ids, second_weights)
                base += second_share * second_rest
                total += second_share * mass
            _softmax(row, stats[b], scale, factor * total, factor * base, out)
            _subtract_listed(out, first, ids, weights, rest, factor * share)
            if mix.size:
                _subtract_listed(out, second, second_ids, second_weights, second_rest, factor * second_share)
            if hard.size:
                if 0 <= hard[b] < C:
                    out[hard[b]] -= factor * hard_share
                else:
                    out[:] = np.nan
            _store(out, kind, gradient[b])
