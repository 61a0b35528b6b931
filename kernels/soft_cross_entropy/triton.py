"""soft_cross_entropy on CUDA: one program per row forward; one per row and block of classes backward.

Forward keeps the top logit so far and sums relative to it, so that logits are read once. The sum over classes that a
label does not list is the sum over all less the listed ones. To lose nothing to cancellation there, logits below LOW,
such as masks, are summed and counted apart: where a label lists all of them, their part is 0 and not a remainder.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels.decode_topk.triton import EXTREME_TEMPERATURE
from fastlabel.kernels.label_format import CODES_PER_NAT, LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, UNDEFINED_MEAN_GAP
from fastlabel.kernels.label_format import ZERO_CODE as _ZERO_CODE
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target
from fastlabel.kernels.soft_cross_entropy.reference import loss_dtype

MAX_LISTED = 1024  # classes of one label, rounded up to a power of two
MAX_PAIRS = 128 * 128  # of two labels, which are compared with each other
FORWARD_BLOCK, BACKWARD_BLOCK = 8192, 4096  # classes that a program holds at once

LOW = tl.constexpr(-8192.0)
PER_NAT = tl.constexpr(float(CODES_PER_NAT))
ODDS_PER_NAT, ODDS_OFFSET = tl.constexpr(float(LOG_ODDS_PER_NAT)), tl.constexpr(float(LOG_ODDS_OFFSET))
UNDEFINED = tl.constexpr(UNDEFINED_MEAN_GAP)
ZERO_CODE = tl.constexpr(_ZERO_CODE)


@triton.jit
def _decode_coded(
    classes, codes, tail, row, C, temperature, K: tl.constexpr, PLACES: tl.constexpr, DTYPE: tl.constexpr
):
    """Ids (-1 at empty places) and weights [PLACES], rest and mass: the algebra of decode_topk/reference.py."""
    place = tl.arange(0, PLACES)
    used = place < K
    # At most C, which is out of range: an id of 32 bits must not turn into -1.
    ids = tl.minimum(tl.load(classes + row * K + place, mask=used, other=0).to(tl.int64), C).to(tl.int32)
    ids = tl.where(used, ids, -1)
    code = tl.where(used, tl.load(codes + row * K + place, mask=used, other=0).to(tl.int32), ZERO_CODE)
    has_weight = code != ZERO_CODE
    gap = code.to(DTYPE) / PER_NAT
    weights = tl.where(has_weight, tl.exp(-gap / temperature), 0.0)
    mass_code = tl.load(tail + row * 2).to(tl.int32)
    gap_code = tl.load(tail + row * 2 + 1).to(tl.int32)
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
    return ids, weights / total, tail_weight / total, total / total


@triton.jit
def _decode_weighted(classes, probs, rest, row, C, K: tl.constexpr, PLACES: tl.constexpr, DTYPE: tl.constexpr):
    place = tl.arange(0, PLACES)
    used = place < K
    ids = tl.load(classes + row * K + place, mask=used, other=-1)
    weights = tl.where(ids >= 0, tl.load(probs + row * K + place, mask=used, other=0.0).to(DTYPE), 0.0)
    each = tl.load(rest + row).to(DTYPE)
    unlisted = (C - tl.sum((ids >= 0).to(tl.int32))).to(DTYPE)
    return ids, weights, each, tl.sum(weights) + unlisted * each


@triton.jit
def _decode(
    classes, weights, rest, rows, P, b, C, temperature,
    CODED: tl.constexpr, HAS_ROWS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The label of row b of the batch; its mass is NaN where that row or a class id is out of range."""
    row = b
    if HAS_ROWS:
        row = tl.load(rows + b).to(tl.int64)
    inside = (row >= 0) & (row < P)
    row = tl.where(inside, row, 0)
    if CODED:
        ids, share, each, mass = _decode_coded(classes, weights, rest, row, C, temperature, K, PLACES, DTYPE)
    else:
        ids, share, each, mass = _decode_weighted(classes, weights, rest, row, C, K, PLACES, DTYPE)
    outside = (ids >= C) | (ids < -1)
    bad = (tl.sum(outside.to(tl.int32)) > 0) | (inside == 0)
    ids = tl.where(outside, -1, ids)
    return ids, share, each, tl.where(bad, float("nan"), mass)


@triton.jit
def _shares(mix, hard, hard_weight, b, C, HAS_SECOND: tl.constexpr, HAS_HARD: tl.constexpr, DTYPE: tl.constexpr):
    """Shares of the first label, the second and the hard target, and the class of that (-1 for none)."""
    hard_share = tl.full((), 0.0, DTYPE)
    first_share = tl.full((), 1.0, DTYPE)
    hard_class = tl.full((), -1, tl.int32)
    if HAS_HARD:
        hard_share = tl.load(hard_weight + b).to(DTYPE)
        wanted = tl.load(hard + b)
        inside = (wanted >= 0) & (wanted < C)
        hard_class = tl.where(inside, wanted, 0).to(tl.int32)
        hard_share = tl.where(inside, hard_share, float("nan"))
    if HAS_SECOND:
        first_share = tl.load(mix + b).to(DTYPE)
    return (1.0 - hard_share) * first_share, (1.0 - hard_share) * (1.0 - first_share), hard_share, hard_class


@triton.jit
def _label_loss(row_ptr, ids, weights, each, mass, top, log_sum, scale, sums, counts, DTYPE: tl.constexpr):
    """Cross-entropy against one label, from the sums and counts over all classes of ordinary, low and infinite gaps."""
    listed = ids >= 0
    x = tl.load(row_ptr + tl.where(listed, ids, 0), mask=listed, other=0.0).to(DTYPE)
    gap = top - x
    loss = mass * log_sum + scale * tl.sum(tl.where(weights != 0, weights * gap, 0.0))
    infinite = listed & (x == float("-inf"))
    low = listed & (x < LOW) & (infinite == 0)
    ordinary = listed & (x >= LOW)
    left = counts[0] - tl.sum(ordinary.to(tl.int32))
    left_low = counts[1] - tl.sum(low.to(tl.int32))
    left_infinite = counts[2] - tl.sum(infinite.to(tl.int32))
    rest = tl.maximum(sums[0] - tl.sum(tl.where(ordinary, gap, 0.0)), 0.0)
    rest_low = tl.maximum(sums[1] - tl.sum(tl.where(low, gap, 0.0)), 0.0)
    rest = tl.where(left > 0, rest, 0.0) + tl.where(left_low > 0, rest_low, 0.0)
    rest = tl.where(left_infinite > 0, float("inf"), rest)
    return loss + tl.where(each != 0, each * scale * rest, 0.0)


@triton.jit
def _forward_kernel(
    logits, loss, stats, C, label_temperature, scale,
    classes, weights, rest, rows, P, classes_2, weights_2, rest_2, rows_2, P_2, mix, hard, hard_weight,
    CODED: tl.constexpr, HAS_ROWS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
    HAS_SECOND: tl.constexpr, HAS_ROWS_2: tl.constexpr, K_2: tl.constexpr, PLACES_2: tl.constexpr,
    HAS_HARD: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    row_ptr = logits + b * C
    temperature = tl.full((), 0.0, DTYPE) + label_temperature
    scale = tl.full((), 0.0, DTYPE) + scale
    top = tl.full((), float("-inf"), DTYPE)
    exp_sum = tl.full((), 0.0, DTYPE)
    gap_sum, low_sum = tl.full((), 0.0, DTYPE), tl.full((), 0.0, DTYPE)
    ordinary, n_low, n_infinite = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = c < C
        x = tl.load(row_ptr + c, mask=inside, other=float("-inf")).to(DTYPE)
        higher = tl.maximum(top, tl.max(x))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        rise = tl.where(top == float("-inf"), 0.0, base - top)
        exp_sum = exp_sum * tl.exp(-rise * scale) + tl.sum(tl.exp((x - base) * scale))
        gap = tl.where(x >= LOW, base - x, 0.0)
        gap_sum += ordinary.to(DTYPE) * rise + tl.sum(gap)
        low_sum += n_low.to(DTYPE) * rise
        ordinary += min(C - start, BLOCK)
        if tl.min(tl.where(inside, x, 0.0)) < LOW:
            infinite = inside & (x == float("-inf"))
            low = inside & (x < LOW) & (infinite == 0)
            low_sum += tl.sum(tl.where(low, base - x, 0.0))
            lows, infinites = tl.sum(low.to(tl.int32)), tl.sum(infinite.to(tl.int32))
            n_low += lows
            n_infinite += infinites
            ordinary -= lows + infinites
        top = higher
    log_sum = tl.log(exp_sum)
    share, share_2, hard_share, hard_class = _shares(mix, hard, hard_weight, b, C, HAS_SECOND, HAS_HARD, DTYPE)
    sums, counts = (gap_sum, low_sum), (ordinary, n_low, n_infinite)
    ids, w, each, mass = _decode(classes, weights, rest, rows, P, b, C, temperature, CODED, HAS_ROWS, K, PLACES, DTYPE)
    value = _label_loss(row_ptr, ids, w, each, mass, top, log_sum, scale, sums, counts, DTYPE)
    total = tl.where(share != 0, share * value, 0.0)
    if HAS_SECOND:
        ids, w, each, mass = _decode(
            classes_2, weights_2, rest_2, rows_2, P_2, b, C, temperature, CODED, HAS_ROWS_2, K_2, PLACES_2, DTYPE
        )
        value = _label_loss(row_ptr, ids, w, each, mass, top, log_sum, scale, sums, counts, DTYPE)
        total += tl.where(share_2 != 0, share_2 * value, 0.0)
    if HAS_HARD:
        value = log_sum + scale * (top - tl.load(row_ptr + hard_class).to(DTYPE))
        total += tl.where(hard_share != 0, hard_share * value, 0.0)
    tl.store(loss + b, total)
    tl.store(stats + 2 * b, top)
    tl.store(stats + 2 * b + 1, log_sum)


@triton.jit
def _weights_of(wanted, ids, weights, each):
    """The weight that a label gives to each of some classes [Q], listed or not."""
    same = wanted[:, None] == ids[None, :]
    listed = tl.sum(same.to(tl.int32), 1) > 0
    return tl.where(listed, tl.sum(tl.where(same, weights[None, :], 0.0), 1), each)


@triton.jit
def _store_listed(row_ptr, out_ptr, ids, target, start, factor, mass, top, log_sum, scale, BLOCK: tl.constexpr):
    """Write factor * (mass * softmax - target) at those of some classes that lie in this program's block."""
    here = (ids >= start) & (ids < start + BLOCK)
    at = tl.where(here, ids, 0)
    x = tl.load(row_ptr + at, mask=here, other=0.0).to(target.dtype)
    value = factor * (mass * tl.exp((x - top) * scale - log_sum) - target)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _backward_kernel(
    grad, gradient, logits, stats, C, label_temperature, scale,
    classes, weights, rest, rows, P, classes_2, weights_2, rest_2, rows_2, P_2, mix, hard, hard_weight,
    CODED: tl.constexpr, HAS_ROWS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
    HAS_SECOND: tl.constexpr, HAS_ROWS_2: tl.constexpr, K_2: tl.constexpr, PLACES_2: tl.constexpr,
    HAS_HARD: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    row_ptr, out_ptr = logits + b * C, gradient + b * C
    c = start + tl.arange(0, BLOCK)
    x = tl.load(row_ptr + c, mask=c < C, other=float("-inf")).to(DTYPE)
    temperature = tl.full((), 0.0, DTYPE) + label_temperature
    scale = tl.full((), 0.0, DTYPE) + scale
    factor = tl.load(grad + b).to(DTYPE) * scale
    top, log_sum = tl.load(stats + 2 * b), tl.load(stats + 2 * b + 1)
    share, share_2, hard_share, hard_class = _shares(mix, hard, hard_weight, b, C, HAS_SECOND, HAS_HARD, DTYPE)
    ids, w, each, mass = _decode(classes, weights, rest, rows, P, b, C, temperature, CODED, HAS_ROWS, K, PLACES, DTYPE)
    target = share * w
    base, total = share * each, share * mass + hard_share
    if HAS_SECOND:
        ids_2, w_2, each_2, mass_2 = _decode(
            classes_2, weights_2, rest_2, rows_2, P_2, b, C, temperature, CODED, HAS_ROWS_2, K_2, PLACES_2, DTYPE
        )
        base += share_2 * each_2
        total += share_2 * mass_2
        target += share_2 * _weights_of(ids, ids_2, w_2, each_2)
        target_2 = share_2 * w_2 + share * _weights_of(ids_2, ids, w, each)
    dense = factor * (total * tl.exp((x - top) * scale - log_sum) - base)
    tl.store(out_ptr + c, dense.to(gradient.dtype.element_ty), mask=c < C)
    # Listed classes are written again, with their own target, so that low precision rounds once. Barriers keep the
    # order; where two labels list a class, both write the same.
    tl.debug_barrier()
    target += tl.where(ids == hard_class, hard_share, 0.0)
    _store_listed(row_ptr, out_ptr, ids, target, start, factor, total, top, log_sum, scale, BLOCK)
    if HAS_SECOND:
        tl.debug_barrier()
        target_2 += tl.where(ids_2 == hard_class, hard_share, 0.0)
        _store_listed(row_ptr, out_ptr, ids_2, target_2, start, factor, total, top, log_sum, scale, BLOCK)
    if HAS_HARD:
        tl.debug_barrier()
        one = tl.full((1,), 0, tl.int32) + hard_class
        target_3 = share * _weights_of(one, ids, w, each) + hard_share
        if HAS_SECOND:
            target_3 += share_2 * _weights_of(one, ids_2, w_2, each_2)
        _store_listed(row_ptr, out_ptr, one, target_3, start, factor, total, top, log_sum, scale, BLOCK)


def can_run(target: Target) -> bool:
    """Whether the kernels hold the labels of one row: up to 1,024 classes, or 128 of each of two labels."""
    first, second = _places(target.labels), _places(target.second) if target.second else 1
    return max(first, second) <= MAX_LISTED and first * second <= MAX_PAIRS


def forward(
    logits_BC: Tensor, target: Target, student_temperature: float, block: int = FORWARD_BLOCK
) -> tuple[Tensor, Tensor]:
    """Losses [B], and what `backward` needs of each row: top logit and log-sum-exp above it, [B, 2]."""
    B, C = logits_BC.shape
    dtype = loss_dtype(logits_BC.dtype)
    loss, stats = logits_BC.new_empty(B, dtype=dtype), logits_BC.new_empty(B, 2, dtype=dtype)
    block = min(triton.next_power_of_2(C), block)
    if B:
        arguments = (loss, stats, C, *_arguments(target, student_temperature))
        with torch.cuda.device_of(logits_BC):
            _forward_kernel[(B,)](logits_BC.contiguous(), *arguments, **_constants(target, dtype, block))
    return loss, stats


def backward(
    grad_B: Tensor,
    logits_BC: Tensor,
    stats_B2: Tensor,
    target: Target,
    student_temperature: float,
    block: int = BACKWARD_BLOCK,
) -> Tensor:
    """The gradient in the logits [B, C], of their dtype."""
    B, C = logits_BC.shape
    gradient_BC = logits_BC.new_empty(B, C)
    block = min(triton.next_power_of_2(C), block)
    if B:
        tensors = (grad_B.contiguous(), gradient_BC, logits_BC.contiguous(), stats_B2)
        arguments = (*tensors, C, *_arguments(target, student_temperature))
        constants = _constants(target, loss_dtype(logits_BC.dtype), block)
        with torch.cuda.device_of(logits_BC):
            _backward_kernel[(B, triton.cdiv(C, block))](*arguments, **constants)
    return gradient_BC


def _places(labels: Labels) -> int:
    return int(triton.next_power_of_2(labels.classes.shape[1]))


def _arguments(target: Target, student_temperature: float) -> tuple[Any, ...]:
    """Run-time arguments of both kernels, from the label temperature on."""
    second = target.second or Labels(*target.labels[:3])
    return (
        min(max(float(target.temperature), 1 / EXTREME_TEMPERATURE), EXTREME_TEMPERATURE),
        1.0 / student_temperature,
        *_tensors(target.labels),
        *_tensors(second),
        *(None if tensor is None else tensor.contiguous() for tensor in (target.mix, target.hard, target.hard_weight)),
    )


def _tensors(labels: Labels) -> tuple[Any, ...]:
    rows = None if labels.rows is None else labels.rows.contiguous()
    return labels.classes.contiguous(), labels.weights.contiguous(), labels.rest.contiguous(), rows, len(labels.classes)


def _constants(target: Target, dtype: torch.dtype, block: int) -> dict[str, Any]:
    """Compile-time arguments of both kernels: another combination compiles another kernel."""
    second = target.second or target.labels
    return {
        "CODED": target.labels.coded,
        "HAS_ROWS": target.labels.rows is not None,
        "K": target.labels.classes.shape[1],
        "PLACES": _places(target.labels),
        "HAS_SECOND": target.second is not None,
        "HAS_ROWS_2": second.rows is not None,
        "K_2": second.classes.shape[1],
        "PLACES_2": _places(second),
        "HAS_HARD": target.hard is not None,
        "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "BLOCK": block,
        "num_warps": min(max(block // 256, 1), 16),
        "enable_fp_fusion": True,
    }
