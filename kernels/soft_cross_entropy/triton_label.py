"""What a row of the loss is to match, in Triton: one label of either form, and the shares of the parts of a target."""

from __future__ import annotations

import triton
import triton.language as tl

from fastlabel.kernels.label_format import CODES_PER_NAT, LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, UNDEFINED_MEAN_GAP
from fastlabel.kernels.label_format import ZERO_CODE as _ZERO_CODE

PER_NAT = tl.constexpr(float(CODES_PER_NAT))
ODDS_PER_NAT, ODDS_OFFSET = tl.constexpr(float(LOG_ODDS_PER_NAT)), tl.constexpr(float(LOG_ODDS_OFFSET))
UNDEFINED = tl.constexpr(UNDEFINED_MEAN_GAP)
ZERO_CODE = tl.constexpr(_ZERO_CODE)


@triton.jit
def number(value, DTYPE: tl.constexpr):
    """A number that came as `as_argument` of triton.py made it: Triton's own floats are float32."""
    if tl.float64 == DTYPE:
        value = value.to(tl.float64, bitcast=True)
    return tl.full((), 0.0, DTYPE) + value


@triton.jit
def load_label(
    classes, weights, rest, rows, P, b,
    CODED: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """The label of row b of the batch as it is stored; not `known` where the plane ends before that row."""
    row = b
    if rows is not None:
        row = tl.load(rows + b).to(tl.int64)
    known = (row >= 0) & (row < P)
    row = tl.where(known, row, 0)
    place = tl.arange(0, PLACES)
    ids = tl.load(classes + row * K + place, mask=place < K, other=0)
    values = tl.load(weights + row * K + place, mask=place < K, other=0)
    if CODED:
        return ids, values, tl.load(rest + row * 2), tl.load(rest + row * 2 + 1), known
    else:
        each = tl.load(rest + row)
        return ids, values, each, each, known


@triton.jit
def _decode_coded(ids, code, mass_code, gap_code, C, temperature, K: tl.constexpr, DTYPE: tl.constexpr):
    """Weights, rest and mass: the algebra of decode_topk/reference.py."""
    has_weight = (ids >= 0) & (code != ZERO_CODE)
    gap = code.to(tl.int32).to(DTYPE) / PER_NAT
    weights = tl.where(has_weight, tl.exp(-gap / temperature), 0.0)
    mass_code, gap_code = mass_code.to(tl.int32), gap_code.to(tl.int32)
    unlisted = tl.full((), 0.0, DTYPE) + (C - K)
    kept = tl.sum(tl.where(has_weight, tl.exp(-gap), 0.0))
    lam_1 = (mass_code - 1).to(DTYPE) / ODDS_PER_NAT - ODDS_OFFSET + tl.log(kept / tl.maximum(unlisted, 1.0))
    gamma = gap_code.to(DTYPE) / PER_NAT
    delta = lam_1 + gamma
    gaussian = (gap_code != UNDEFINED) & (delta >= 0)
    lam = tl.where(gaussian, (delta / temperature - gamma) / temperature, lam_1 / temperature)
    last = tl.max(tl.where(has_weight, gap, 0.0))
    lam = tl.where(temperature < 1.0, tl.minimum(lam, tl.maximum(-last, lam_1) / temperature), lam)
    lam = tl.where(temperature == 1.0, lam_1, lam)
    has_tail = (C > K) & (mass_code > 0)
    weights = weights * tl.where(has_tail, tl.exp(-tl.maximum(lam, 0.0)), 1.0)
    tail_weight = tl.where(has_tail, tl.exp(tl.minimum(lam, 0.0)), 0.0)
    total = tl.sum(weights) + unlisted * tail_weight
    return weights / total, tail_weight / total, total / total


@triton.jit
def _decode_weighted(ids, weights, each, C, DTYPE: tl.constexpr):
    weights = tl.where(ids >= 0, weights.to(DTYPE), 0.0)
    each = each.to(DTYPE)
    unlisted = (C - tl.sum((ids >= 0).to(tl.int32))).to(DTYPE)
    return weights, each, tl.sum(weights) + unlisted * each


@triton.jit
def decode(label, C, temperature, CODED: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr, DTYPE: tl.constexpr):
    """Class ids (-1 at empty places) and weights [PLACES], the weight of each other class, and the sum of all.

    That sum is NaN where the label is not known or a class id is out of range.
    """
    ids, values, rest, rest_2, known = label
    if CODED:  # at most C, which is out of range: an id of 32 bits must not turn into -1
        ids = tl.minimum(ids.to(tl.int64), C).to(tl.int32)
    ids = tl.where(tl.arange(0, PLACES) < K, ids, -1)
    if CODED:
        weights, each, mass = _decode_coded(ids, values, rest, rest_2, C, temperature, K, DTYPE)
    else:
        weights, each, mass = _decode_weighted(ids, values, rest, C, DTYPE)
    outside = (ids >= C) | (ids < -1)
    bad = (tl.sum(outside.to(tl.int32)) > 0) | (known == 0)
    return tl.where(outside, -1, ids), weights, each, tl.where(bad, float("nan"), mass)


@triton.jit
def shares_of(mix, hard, hard_weight, b, C, DTYPE: tl.constexpr):
    """Shares of the first label, the second and the hard target, and the class of that (-1 for none)."""
    hard_share = tl.full((), 0.0, DTYPE)
    first_share = tl.full((), 1.0, DTYPE)
    hard_class = tl.full((), -1, tl.int32)
    if hard is not None:
        hard_share = tl.load(hard_weight + b).to(DTYPE)
        wanted = tl.load(hard + b)
        inside = (wanted >= 0) & (wanted < C)
        hard_class = tl.where(inside, wanted, 0).to(tl.int32)
        hard_share = tl.where(inside, hard_share, float("nan"))
    if mix is not None:
        first_share = tl.load(mix + b).to(DTYPE)
    return (1.0 - hard_share) * first_share, (1.0 - hard_share) * (1.0 - first_share), hard_share, hard_class


@triton.jit
def weights_in(wanted, ids_ptr, weights_ptr, each, K: tl.constexpr, CHUNK: tl.constexpr, DTYPE: tl.constexpr):
    """The weight that a label in memory gives to each of some classes [Q], listed or not."""
    listed = tl.zeros_like(wanted)
    weights = wanted.to(DTYPE) * 0.0
    for start in range(0, K, CHUNK):  # not all pairs at once: they would not fit into registers
        place = start + tl.arange(0, CHUNK)
        ids = tl.load(ids_ptr + place, mask=place < K, other=0.0)
        ids = bits_of(ids)
        same = (wanted[:, None] == ids[None, :]) & (place < K)[None, :]
        values = tl.load(weights_ptr + place, mask=place < K, other=0.0)
        listed += tl.sum(same.to(tl.int32), 1)
        weights += tl.sum(tl.where(same, values[None, :], 0.0), 1)
    return tl.where(listed > 0, weights, each)


@triton.jit
def as_number(ids, DTYPE: tl.constexpr):
    """Class ids as numbers with these bits, to be stored beside others."""
    if tl.float64 == DTYPE:
        return ids.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return ids.to(tl.float32, bitcast=True)


@triton.jit
def bits_of(values):
    """The class ids that `as_number` has stored."""
    if values.dtype == tl.float64:
        return values.to(tl.int64, bitcast=True).to(tl.int32)
    else:
        return values.to(tl.int32, bitcast=True)
