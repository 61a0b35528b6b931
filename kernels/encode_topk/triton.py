"""encode_topk on CUDA: one program for each row, which it reads twice, in chunks.

A logit and its class are one int64 key, so that a maximum is unique and of equal logits takes the lower class. The
first pass keeps the K + 1 largest keys in registers: a chunk's largest key replaces the least of them while it is
larger. The second pass sums the tail. Compile without FMA: weight.py says why.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels import label_format
from fastlabel.kernels.encode_topk import weight

MAX_CLASSES, MAX_KEPT = 32768, 64
LARGEST_CHUNK = 2048

_LOG2_E, _LARGEST_POWER = tl.constexpr(weight.LOG2_E), tl.constexpr(weight.LARGEST_POWER)
_C1, _C2, _C3, _C4, _C5 = (tl.constexpr(c) for c in (weight.C1, weight.C2, weight.C3, weight.C4, weight.C5))
_CODES_PER_NAT = tl.constexpr(float(label_format.CODES_PER_NAT))
_SATURATED, _ZERO = tl.constexpr(label_format.SATURATED_CODE), tl.constexpr(label_format.ZERO_CODE)
_PER_NAT = tl.constexpr(float(label_format.LOG_ODDS_PER_NAT))
_OFFSET, _SPAN = tl.constexpr(float(label_format.LOG_ODDS_OFFSET)), tl.constexpr(label_format.LOG_ODDS_SPAN)
_ZERO_MASS, _UNDEFINED = tl.constexpr(label_format.ZERO_MASS), tl.constexpr(label_format.UNDEFINED_MEAN_GAP)
_LARGEST_MEAN = tl.constexpr(label_format.LARGEST_MEAN_GAP)
_LOWEST_KEY, _HIGHEST_KEY = tl.constexpr(-(1 << 63)), tl.constexpr((1 << 63) - 1)
_LOW_WORD = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _keys(logits, classes):
    bits = logits.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    order = tl.where(order == -1, 0, order)  # -0.0 equals 0.0
    return (order.to(tl.int64) << 32) | (classes ^ _LOW_WORD).to(tl.int64)


@triton.jit
def _logit(keys):
    order = (keys >> 32).to(tl.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _steps(nats, per_nat, largest):
    return tl.minimum(tl.maximum(tl.floor(nats * per_nat + 0.5), 0.0), largest).to(tl.int32)


@triton.jit
def _weight(gap):
    power = tl.minimum(gap * _LOG2_E, _LARGEST_POWER)
    whole = power.to(tl.int32)
    f = power - whole.to(tl.float32)
    p = ((((f * _C5 + _C4) * f + _C3) * f + _C2) * f + _C1) * f + 1.0
    return p * ((127 - whole) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _largest_keys(row, C, kept, CHUNK: tl.constexpr, PLACES: tl.constexpr):
    """The `kept` largest keys of a row, downwards, in PLACES of them; the others hold the lowest key."""
    places = tl.arange(0, PLACES)
    columns = tl.arange(0, CHUNK)
    # Different from one another and below every logit's key; places that are not used are never the least.
    largest = tl.where(places < kept, places.to(tl.int64) + (_LOWEST_KEY + 1), _HIGHEST_KEY)
    least = tl.min(largest)
    for start in range(0, C, CHUNK):
        classes = start + columns
        logits = tl.load(row + classes, mask=classes < C, other=0.0).to(tl.float32)
        keys = tl.where(classes < C, _keys(logits, classes), _LOWEST_KEY)
        key = tl.max(keys)
        while key > least:
            largest = tl.where(largest == least, key, largest)
            least = tl.min(largest)
            key = tl.max(tl.where(keys < key, keys, _LOWEST_KEY))
    return tl.sort(tl.where(places < kept, largest, _LOWEST_KEY), descending=True)


@triton.jit
def _encode_tail(row, C, K, top, highest, kept_sum, CHUNK: tl.constexpr):
    """Codes of the mass and of the mean gap."""
    columns = tl.arange(0, CHUNK)
    weights = tl.zeros([CHUNK], tl.float64)
    gaps = tl.zeros([CHUNK], tl.float64)
    holes = tl.zeros([CHUNK], tl.int32)
    for start in range(0, C, CHUNK):
        inside = start + columns < C
        logits = tl.load(row + start + columns, mask=inside, other=0.0).to(tl.float32)
        # The kept classes are not below `highest`: each adds a weight of exactly 1 and a gap of 0.
        gap = tl.maximum(highest - logits, 0.0)
        weights += tl.where(inside, _weight(gap), 0.0).to(tl.float64)
        gaps += tl.where(inside, gap, 0.0).to(tl.float64)
        holes += (inside & (logits == float("-inf"))).to(tl.int32)
    drop = top.to(tl.float64) - highest.to(tl.float64)
    log_odds = (tl.log(tl.sum(weights) - K) - tl.log(kept_sum)) - drop
    mass = 1 + _steps(log_odds + _OFFSET, _PER_NAT, _SPAN)
    mean = _steps(drop + tl.sum(gaps) / (C - K), _CODES_PER_NAT, _LARGEST_MEAN)
    return mass, tl.where(tl.sum(holes) == 0, mean, _UNDEFINED)


@triton.jit
def _encode_row(
    logits_ptr,
    stride,
    classes_ptr,
    codes_ptr,
    tail_ptr,
    C,
    K,
    CHUNK: tl.constexpr,
    PLACES: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    row = logits_ptr + b * stride
    places = tl.arange(0, PLACES)
    keys = _largest_keys(row, C, tl.minimum(K + 1, C), CHUNK, PLACES)
    values = _logit(keys)
    top = _logit(tl.max(keys))
    highest = _logit(tl.max(tl.where(places == K, keys, _LOWEST_KEY)))

    kept = places < K
    codes = _steps(top.to(tl.float64) - values.to(tl.float64), _CODES_PER_NAT, _SATURATED)
    codes = tl.where(values == float("-inf"), _ZERO, codes)
    tl.store(codes_ptr + b * K + places, codes.to(tl.uint8), mask=kept)
    classes = (keys & _LOW_WORD) ^ _LOW_WORD
    tl.store(classes_ptr + b * K + places, classes.to(tl.int16), mask=kept)

    mass = tl.full([], _ZERO_MASS, tl.int32)
    mean = tl.full([], _UNDEFINED, tl.int32)
    if (K < C) & (highest != float("-inf")):
        kept_sum = tl.sum(tl.where(kept, _weight(top - values), 0.0).to(tl.float64))
        mass, mean = _encode_tail(row, C, K, top, highest, kept_sum, CHUNK)
    tl.store(tail_ptr + 2 * b, mass.to(tl.int16))
    tl.store(tail_ptr + 2 * b + 1, mean.to(tl.int16))


def fits(logits_BC: Tensor, k: int) -> bool:
    """Whether the kernel takes these logits: their dtype, and how many classes there are and are kept."""
    return logits_BC.dtype != torch.float64 and logits_BC.shape[1] <= MAX_CLASSES and k <= MAX_KEPT


def encode_topk_triton(logits_BC: Tensor, classes_BK: Tensor, codes_BK: Tensor, tail_B2: Tensor) -> None:
    """Encode logits that `fits` into the three given tensors: see `encode_topk`. CUDA, or Triton's interpreter."""
    (B, C), k = logits_BC.shape, codes_BK.shape[1]
    if not B:
        return
    if logits_BC.stride(1) != 1:
        logits_BC = logits_BC.contiguous()
    chunk = min(triton.next_power_of_2(C), LARGEST_CHUNK)
    with torch.cuda.device_of(logits_BC):
        _encode_row[(B,)](
            logits_BC,
            logits_BC.stride(0),
            classes_BK.view(torch.int16),
            codes_BK,
            tail_B2.view(torch.int16),
            C,
            k,
            CHUNK=chunk,
            PLACES=triton.next_power_of_2(k + 1),
            num_warps=max(1, min(8, chunk // 256)),
            enable_fp_fusion=False,
        )
