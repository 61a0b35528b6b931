"""A row of logits in Triton, read 16 bytes at a time for any number of classes, and the sums over it.

A row is its middle, VEC logits (16 bytes) after VEC others from the first 16-byte boundary on, and its edges, the fewer
than 2 * VEC logits before and after. Where VEC divides the number of classes there are no edges.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOW = tl.constexpr(-8192.0)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def split(b, C, UNIT: tl.constexpr, VEC: tl.constexpr):
    """Row b of [B, C]: where its middle starts in the tensor, logits before that, and the middle's vectors."""
    if UNIT == VEC:
        return b * C, 0, C // VEC
    else:
        start = (b * C + (VEC - 1)) // VEC * VEC  # a multiple of VEC, as the compiler sees too
        head = tl.minimum(start - b * C, C).to(tl.int32)
        return start, head, (C - head) // VEC


@triton.jit
def edge(head, vectors, C, VEC: tl.constexpr, LANES: tl.constexpr):
    """One class of the edges for each of the first lanes, and which lanes have one."""
    lane = tl.arange(0, LANES)
    return tl.where(lane < head, lane, lane + vectors * VEC), lane < C - vectors * VEC


@triton.jit
def _above(top):
    """A finite number to subtract: the top logit, or 0 where there is none above -inf."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def _add_lanes(exp_sum, gap_sum, lowest, exp_sum_2, gap_sum_2, lowest_2):
    return exp_sum + exp_sum_2, gap_sum + gap_sum_2, tl.minimum(lowest, lowest_2)


@triton.jit
def row_sums(
    logits, b, C, scale, UNIT: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """The top logit of row b, the sums of exp(-scale * gap) and of gaps below it, and the lowest logit, or 0.

    Each lane keeps its own top and sums, so that the loop over the row has no barrier.
    """
    start, head, vectors = split(b, C, UNIT, VEC)
    middle, lane = logits + start, tl.arange(0, LANES)
    k = scale * LOG2_E
    top = tl.full((LANES,), float("-inf"), DTYPE)
    count, exp_sum, gap_sum, lowest = tl.zeros_like(top), tl.zeros_like(top), tl.zeros_like(top), tl.zeros_like(top)
    if UNIT != VEC:
        c, inside = edge(head, vectors, C, VEC, LANES)
        top = tl.load(logits + b * C + c, mask=inside, other=float("-inf")).to(DTYPE)
        count = inside.to(DTYPE)
        exp_sum = tl.exp2(top - _above(top))  # 1, 0 for -inf, NaN for NaN and infinity
        lowest = tl.where(inside, tl.minimum(top, 0.0), 0.0)
    for first in range(0, vectors, LANES):
        vector = first + lane
        inside = vector < vectors
        at = vector[:, None] * VEC + tl.arange(0, VEC)[None, :]
        x = tl.load(middle + at, mask=inside[:, None], other=float("-inf")).to(DTYPE)
        higher = tl.maximum(top, tl.max(x, 1))
        base = _above(higher)
        gap = base[:, None] - x
        rise = base - tl.where(top == float("-inf"), base, top)
        exp_sum = exp_sum * tl.exp2(-rise * k) + tl.sum(tl.exp2(-gap * k), 1)
        gap_sum += count * rise + tl.where(inside, tl.sum(gap, 1), 0.0)
        lowest = tl.minimum(lowest, tl.where(inside, tl.min(x, 1), 0.0))
        count += tl.where(inside, VEC, 0)
        top = higher
    row_top = tl.max(top)
    rise = _above(row_top) - tl.where(top == float("-inf"), _above(row_top), top)
    exp_sum, gap_sum, lowest = tl.reduce((exp_sum * tl.exp2(-rise * k), gap_sum + count * rise, lowest), 0, _add_lanes)
    return row_top, exp_sum, gap_sum, lowest


@triton.jit
def gaps_by_kind(row, C, top, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """Sums of the gaps of ordinary logits and of low ones, and how many are ordinary, low and -inf."""
    gap_sum, low_sum = tl.zeros((BLOCK,), DTYPE), tl.zeros((BLOCK,), DTYPE)
    low_count, infinite_count = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(row + c, mask=c < C, other=float("inf")).to(DTYPE)
        infinite = x == float("-inf")
        low = (x < LOW) & (infinite == 0)
        gap_sum += tl.where((c < C) & (x >= LOW), top - x, 0.0)
        low_sum += tl.where(low, top - x, 0.0)
        low_count += low.to(tl.int32)
        infinite_count += infinite.to(tl.int32)
    low_total, infinite_total = tl.sum(low_count), tl.sum(infinite_count)
    return tl.sum(gap_sum), tl.sum(low_sum), C - low_total - infinite_total, low_total, infinite_total
