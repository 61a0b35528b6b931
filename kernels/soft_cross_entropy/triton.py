"""soft_cross_entropy on CUDA: one program per row forward; one per row and part of it backward.

Forward keeps the top logit so far and sums relative to it, so that logits are read once. The sum over classes that a
label does not list is the sum over all less the listed ones. To lose nothing to cancellation there, a row with logits
below LOW, such as masks, is read once more, and those are summed and counted apart: where a label lists all of them,
their part is 0 and not a remainder. What backward needs of the target, forward leaves beside the row's statistics.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels.common.launch import Launcher
from fastlabel.kernels.decode_topk.triton import EXTREME_TEMPERATURE
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target
from fastlabel.kernels.soft_cross_entropy.triton_label import (
    as_number,
    bits_of,
    decode,
    load_label,
    number,
    shares_of,
    weights_in,
)
from fastlabel.kernels.soft_cross_entropy.triton_row import LOG2_E, LOW, edge, gaps_by_kind, row_sums, split

MAX_LISTED = 1024  # classes of one label, rounded up to a power of two
MAX_PAIRS = 128 * 128  # of two labels, which are compared with each other

# What forward leaves of each row: these, then the target of each listed class, then the class ids.
TOP, LOG_SUM, REST, MASS, LISTED = (tl.constexpr(i) for i in range(5))


@triton.jit
def _label_loss(row, ids, weights, each, mass, top, log_sum, scale, sums, counts, DTYPE: tl.constexpr):
    """Cross-entropy against one label, from the sums and counts over all classes of ordinary, low and infinite gaps."""
    listed = ids >= 0
    x = tl.load(row + tl.where(listed, ids, 0), mask=listed, other=0.0).to(DTYPE)
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


_LABELS = ("classes", "weights", "rest", "rows")
_UNALIGNED = ("loss", *_LABELS, *(name + "_2" for name in _LABELS), "mix", "hard", "hard_weight")


# None stands for what a target does not have.
@triton.jit(do_not_specialize=("label_temperature", "scale", "P", "P_2"), do_not_specialize_on_alignment=_UNALIGNED)
def _forward_kernel(
    logits, loss, stats, C, label_temperature, scale,
    classes, weights, rest, rows, P, classes_2, weights_2, rest_2, rows_2, P_2, mix, hard, hard_weight,
    CODED: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr, K_2: tl.constexpr, PLACES_2: tl.constexpr,
    DTYPE: tl.constexpr, UNIT: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    HAS_SECOND: tl.constexpr = K_2 > 0
    HAS_HARD: tl.constexpr = hard is not None
    b = tl.program_id(0).to(tl.int64)
    if UNIT > 1:  # C came divided by it, so that the compiler knows that it is a multiple
        C = C * UNIT
    row = logits + b * C
    temperature, scale = number(label_temperature, DTYPE), number(scale, DTYPE)
    # Long before they are needed.
    label = load_label(classes, weights, rest, rows, P, b, CODED, K, PLACES)
    if HAS_SECOND:
        label_2 = load_label(classes_2, weights_2, rest_2, rows_2, P_2, b, CODED, K_2, PLACES_2)
    share, share_2, hard_share, hard_class = shares_of(mix, hard, hard_weight, b, C, DTYPE)

    top, exp_sum, gap_sum, lowest = row_sums(logits, b, C, scale, UNIT, VEC, LANES, DTYPE)
    log_sum = tl.log(exp_sum)
    low_sum = tl.full((), 0.0, DTYPE)
    ordinary, low, infinite = tl.full((), 0, tl.int32) + C, tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    if lowest < LOW:
        gap_sum, low_sum, ordinary, low, infinite = gaps_by_kind(row, C, top, 2 * LANES, DTYPE)
    sums, counts = (gap_sum, low_sum), (ordinary, low, infinite)

    ids, w, each, mass = decode(label, C, temperature, CODED, K, PLACES, DTYPE)
    value = _label_loss(row, ids, w, each, mass, top, log_sum, scale, sums, counts, DTYPE)
    total = tl.where(share != 0, share * value, 0.0)
    target, target_rest, target_mass = share * w, share * each, share * mass + hard_share
    listed: tl.constexpr = K + HAS_SECOND * K_2 + HAS_HARD
    stats += b * (LISTED + 2 * listed)
    targets, target_ids = stats + LISTED, stats + LISTED + listed
    place = tl.arange(0, PLACES)
    tl.store(target_ids + place, as_number(ids, DTYPE), mask=place < K)
    if HAS_SECOND:
        ids_2, w_2, each_2, mass_2 = decode(label_2, C, temperature, CODED, K_2, PLACES_2, DTYPE)
        value = _label_loss(row, ids_2, w_2, each_2, mass_2, top, log_sum, scale, sums, counts, DTYPE)
        total += tl.where(share_2 != 0, share_2 * value, 0.0)
        target_rest += share_2 * each_2
        target_mass += share_2 * mass_2
        place_2 = tl.arange(0, PLACES_2)
        tl.store(target_ids + K + place_2, as_number(ids_2, DTYPE), mask=place_2 < K_2)
        tl.store(targets + place, w, mask=place < K)
        tl.store(targets + K + place_2, w_2, mask=place_2 < K_2)
        tl.debug_barrier()
        CHUNK: tl.constexpr = min(PLACES, PLACES_2, 16)
        target_2 = share_2 * w_2 + share * weights_in(ids_2, target_ids, targets, each, K, CHUNK, DTYPE)
        target += share_2 * weights_in(ids, target_ids + K, targets + K, each_2, K_2, CHUNK, DTYPE)
        tl.debug_barrier()
    if HAS_HARD:
        value = log_sum + scale * (top - tl.load(row + hard_class).to(DTYPE))
        total += tl.where(hard_share != 0, hard_share * value, 0.0)
        same = ids == hard_class
        hard_target = hard_share + tl.sum(tl.where(same, target, 0.0))
        found = tl.sum(same.to(tl.int32)) > 0
        target += tl.where(same, hard_share, 0.0)
        if HAS_SECOND:
            same_2 = ids_2 == hard_class
            hard_target += tl.where(found, 0.0, tl.sum(tl.where(same_2, target_2, 0.0)))
            found = found | (tl.sum(same_2.to(tl.int32)) > 0)
            target_2 += tl.where(same_2, hard_share, 0.0)
        tl.store(targets + listed - 1, hard_target + tl.where(found, 0.0, target_rest))
        tl.store(target_ids + listed - 1, as_number(hard_class, DTYPE))
    tl.store(targets + place, target, mask=place < K)
    if HAS_SECOND:
        tl.store(targets + K + place_2, target_2, mask=place_2 < K_2)
    tl.store(loss + b, total)
    tl.store(stats + TOP, top)
    tl.store(stats + LOG_SUM, log_sum)
    tl.store(stats + REST, target_rest)
    tl.store(stats + MASS, target_mass)


@triton.jit(do_not_specialize=("grad_stride", "scale", "weight", "part"), do_not_specialize_on_alignment=("grad",))
def _backward_kernel(
    grad, grad_stride, gradient, logits, stats, C, scale, weight, part,
    LISTED_CLASSES: tl.constexpr, PLACES: tl.constexpr,
    DTYPE: tl.constexpr, UNIT: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    if UNIT > 1:
        C = C * UNIT
    scale = number(scale, DTYPE)
    stats += b * (LISTED + 2 * LISTED_CLASSES)
    top, log_sum = tl.load(stats + TOP), tl.load(stats + LOG_SUM)
    factor = tl.load(grad + b * grad_stride).to(DTYPE) * number(weight, DTYPE)  # over the temperature
    k, shift = scale * LOG2_E, log_sum * LOG2_E
    above, below = factor * tl.load(stats + MASS), factor * tl.load(stats + REST)
    place = tl.arange(0, PLACES)
    target = tl.load(stats + LISTED + place, mask=place < LISTED_CLASSES, other=0.0)
    ids = bits_of(tl.load(stats + LISTED + LISTED_CLASSES + place, mask=place < LISTED_CLASSES, other=0.0))

    start, head, vectors = split(b, C, UNIT, VEC)
    first = tl.program_id(1) * part
    last = tl.minimum(first + part, vectors)
    for at in range(first, last, LANES):
        vector = at + tl.arange(0, LANES)
        c = vector[:, None] * VEC + tl.arange(0, VEC)[None, :]
        inside = (vector < last)[:, None]
        x = tl.load(logits + start + c, mask=inside, other=0.0).to(DTYPE)
        value = above * tl.exp2((x - top) * k - shift) - below
        tl.store(gradient + start + c, value.to(gradient.dtype.element_ty), mask=inside)
    row, out = logits + b * C, gradient + b * C
    if UNIT != VEC and first == 0:
        c, inside = edge(head, vectors, C, VEC, LANES)
        x = tl.load(row + c, mask=inside, other=0.0).to(DTYPE)
        value = above * tl.exp2((x - top) * k - shift) - below
        tl.store(out + c, value.to(gradient.dtype.element_ty), mask=inside)
    # Listed classes are written again, with their own target, so that low precision rounds once. The barrier keeps the
    # order; a class that is listed twice has one target.
    tl.debug_barrier()
    lowest = tl.where(first == 0, 0, head + first * VEC)
    tail = tl.where(first == 0, head + vectors * VEC, C)
    here = (ids >= lowest) & ((ids < head + last * VEC) | (ids >= tail)) & (place < LISTED_CLASSES)
    c = tl.where(here, ids, 0)
    x = tl.load(row + c, mask=here, other=0.0).to(DTYPE)
    value = above * tl.exp2((x - top) * k - shift) - factor * target
    tl.store(out + c, value.to(gradient.dtype.element_ty), mask=here)


class Launch(NamedTuple):
    """How a kernel is launched; `forward_launch` and `backward_launch` choose, and a benchmark may try others.

    Attributes:
        lanes: vectors of 16 bytes that a program holds at once, a power of two from 32 up.
        warps: of a program.
        steps: times that a program of backward does so, before another takes over.
    """

    lanes: int
    warps: int
    steps: int = 1


VECTORS_PER_WARP = 512  # of a row, forward: the label is decoded by each warp


@lru_cache
def forward_launch(num_classes: int, itemsize: int) -> Launch:
    """The launch for rows of so many logits of so many bytes each."""
    vectors = -(-num_classes * itemsize // 16)
    warps = min(max(_power_of_two(vectors // VECTORS_PER_WARP), 1), 4)
    return Launch(min(max(_power_of_two(vectors), 32), max(64 * warps, 128)), warps)


@lru_cache
def backward_launch(num_classes: int, itemsize: int) -> Launch:
    """The launch for rows of so many logits of so many bytes each: two vectors for each thread."""
    lanes = min(max(_power_of_two(-(-num_classes * itemsize // 16)), 32), 512)
    return Launch(lanes, max(lanes // 64, 1))


def _power_of_two(number: int) -> int:
    """The next one, from 1 on."""
    return 1 << max(number - 1, 0).bit_length()


def can_run(target: Target) -> bool:
    """Whether the kernels hold the labels of one row: up to 1,024 classes, or 128 of each of two labels."""
    first, second = _places(target.labels), _places(target.second) if target.second else 1
    return max(first, second) <= MAX_LISTED and first * second <= MAX_PAIRS


def forward(
    logits_BC: Tensor, target: Target, student_temperature: float, launch: Launch | None = None
) -> tuple[Tensor, Tensor]:
    """Losses [B], and what `backward` needs of each row, [B, 4 + 2 * target.listed]."""
    B, C = logits_BC.shape
    wide = logits_BC.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    loss, stats = logits_BC.new_empty(B, dtype=dtype), logits_BC.new_empty(B, 4 + 2 * target.listed, dtype=dtype)
    if not B:
        return loss, stats
    logits_BC = _aligned(logits_BC)
    launch = launch or forward_launch(C, logits_BC.element_size())
    tensors = _tensors(target)
    numbers = (_number(_bounded(target.temperature), wide), _number(1.0 / student_temperature, wide))
    key = (launch, C, logits_BC.dtype, target.labels.classes.shape[1], *map(_kind, tensors))
    _run_forward(
        logits_BC,
        key if target.second is None else (*key, target.second.classes.shape[1]),
        (B, 1, 1),
        (logits_BC, loss, stats, C // _unit(C, logits_BC.dtype), *numbers, *tensors),
        lambda: _forward_constants(target, C, logits_BC.dtype, launch),
    )
    return loss, stats


def backward(
    grad: Tensor,
    logits_BC: Tensor,
    stats_BS: Tensor,
    student_temperature: float,
    weight: float = 1.0,
    launch: Launch | None = None,
) -> Tensor:
    """The gradient in the logits [B, C], of their dtype, from a weight times that in the losses, [B] or one for all."""
    B, C = logits_BC.shape
    gradient_BC = torch.empty(logits_BC.shape, dtype=logits_BC.dtype, device=logits_BC.device)
    if not B:
        return gradient_BC
    logits_BC = _aligned(logits_BC)
    launch = launch or backward_launch(C, logits_BC.element_size())
    wide, part = stats_BS.dtype == torch.float64, launch.lanes * launch.steps
    scale = 1.0 / student_temperature
    arguments = (grad, grad.stride(0) if grad.ndim else 0, gradient_BC, logits_BC, stats_BS)
    _run_backward(
        logits_BC,
        (launch, C, logits_BC.dtype, grad.dtype, stats_BS.shape[1]),
        (B, max(-(-C * logits_BC.element_size() // 16 // part), 1), 1),
        (*arguments, C // _unit(C, logits_BC.dtype), _number(scale, wide), _number(scale * weight, wide), part),
        lambda: _backward_constants(stats_BS, C, logits_BC.dtype, launch),
    )
    return gradient_BC


def _aligned(logits_BC: Tensor) -> Tensor:
    """The same logits row after row, from an address on that is a multiple of 16."""
    logits_BC = logits_BC.contiguous()
    return logits_BC.clone() if logits_BC.data_ptr() % 16 else logits_BC


def _bounded(temperature: float) -> float:
    return min(max(float(temperature), 1 / EXTREME_TEMPERATURE), EXTREME_TEMPERATURE)


def _number(value: float, wide: bool) -> float | int:
    """A number for a kernel: Triton makes a float32 of a float, so that of a kernel in float64 goes as its bits."""
    return struct.unpack("<q", struct.pack("<d", value))[0] if wide else value


def _kind(argument: Tensor | int | None) -> Any:
    """What of an argument decides which code is compiled: a tensor's dtype, an integer's width."""
    if isinstance(argument, Tensor):
        return argument.dtype
    return None if argument is None else argument >> 31 > 0


def _places(labels: Labels) -> int:
    return _power_of_two(labels.classes.shape[1])


def _tensors(target: Target) -> tuple[Any, ...]:
    """The tensors of a target and the lengths of its planes, contiguous; None for one that is absent."""
    second = (None, None, None, None, None) if target.second is None else _label_tensors(target.second)
    more = (target.mix, target.hard, target.hard_weight)
    return (
        *_label_tensors(target.labels),
        *second,
        *(None if tensor is None else tensor.contiguous() for tensor in more),
    )


def _label_tensors(labels: Labels) -> tuple[Any, ...]:
    classes, weights, rest, rows = labels
    rows = None if rows is None else rows.contiguous()
    return classes.contiguous(), weights.contiguous(), rest.contiguous(), rows, classes.shape[0]


def _unit(num_classes: int, dtype: torch.dtype) -> int:
    """The largest number of logits, up to 16 bytes of them, of which a row is a multiple."""
    return math.gcd(num_classes, 16 // dtype.itemsize)


def _forward_constants(
    target: Target, num_classes: int, dtype: torch.dtype, launch: Launch
) -> tuple[dict[str, Any], dict[str, Any]]:
    second = target.second
    constants = {
        "CODED": target.labels.coded,
        "K": target.labels.classes.shape[1],
        "PLACES": _places(target.labels),
        "K_2": 0 if second is None else second.classes.shape[1],
        "PLACES_2": 1 if second is None else _places(second),
    }
    warps = max(launch.warps, _warps_for_labels(target))
    options = {"num_warps": warps, "enable_fp_fusion": True}
    short = max(constants["PLACES"], constants["PLACES_2"]) <= 32 and (warps == 1 or second is not None)
    if short and dtype != torch.float64:
        options["maxnreg"] = 64  # what half of a multiprocessor's warps may have: ptxas takes more, or spills below
    return constants | _row_constants(num_classes, dtype, launch), options


def _backward_constants(
    stats_BS: Tensor, num_classes: int, dtype: torch.dtype, launch: Launch
) -> tuple[dict[str, Any], dict[str, Any]]:
    listed = (stats_BS.shape[1] - 4) // 2
    constants = {"LISTED_CLASSES": listed, "PLACES": _power_of_two(listed)}
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    return constants | _row_constants(num_classes, dtype, launch), options


def _row_constants(num_classes: int, dtype: torch.dtype, launch: Launch) -> dict[str, Any]:
    return {
        "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "UNIT": _unit(num_classes, dtype),
        "VEC": 16 // dtype.itemsize,
        "LANES": launch.lanes,
    }


def _warps_for_labels(target: Target) -> int:
    """Warps whose registers hold the labels of a row, and for two labels a chunk of the pairs that are compared."""
    if target.second is None:
        return _places(target.labels) // 256
    return max(_places(target.labels) // 32, _places(target.second) // 32, 2)


_run_forward, _run_backward = Launcher(_forward_kernel), Launcher(_backward_kernel)
