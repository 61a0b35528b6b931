"""From tensors to the arrays that the Numba kernels take, also for arguments that are absent."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.kernels.soft_cross_entropy import numba as kernels
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target
from fastlabel.kernels.soft_cross_entropy.reference import loss_dtype

PARTS_PER_THREAD = 4
SMALLEST_PART = 1 << 15  # logits, about 20 us

Array = NDArray[Any]

_NOTHING = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}
_NO_IDS = np.empty(0, np.int64)
_NO_CODES, _NO_TAIL = np.empty((0, 0), np.uint8), np.empty((0, 0), np.uint16)
_NO_PROBS, _NO_REST = np.empty((0, 0), np.float32), np.empty(0, np.float32)


def forward(logits_BC: Tensor, target: Target, student_temperature: float) -> tuple[Tensor, Tensor]:
    """Losses [B], and what `backward` needs of each row: top logit and log-sum-exp above it, [B, 2].

    Raises:
        ValueError: a row of the plane, a class id or a target is out of range.
    """
    B, C = logits_BC.shape
    dtype = loss_dtype(logits_BC.dtype)
    loss, stats = torch.empty(B, dtype=dtype), torch.empty(B, 2, dtype=dtype)
    words, kind = _words(logits_BC)
    arguments = _arguments(target, student_temperature, dtype)
    bad = kernels.forward(words, kind, *arguments, loss.numpy(), stats.numpy(), _parts(logits_BC))
    if any(bad):
        raise ValueError(_what_is_bad(bad, C, target))
    return loss, stats


def backward(grad_B: Tensor, logits_BC: Tensor, stats_B2: Tensor, target: Target, student_temperature: float) -> Tensor:
    """The gradient in the logits [B, C], of their dtype."""
    dtype = loss_dtype(logits_BC.dtype)
    gradient_BC = torch.empty(logits_BC.shape, dtype=logits_BC.dtype)
    words, kind = _words(logits_BC)
    grad, stats = _array(grad_B.to(dtype)), _array(stats_B2)
    arguments = _arguments(target, student_temperature, dtype)
    kernels.backward(grad, words, kind, stats, *arguments, _words(gradient_BC)[0], _parts(logits_BC))
    return gradient_BC


def _parts(logits_BC: Tensor) -> int:
    """Ranges of rows that the threads share: each allocates scratch memory once, and is worth waking a thread."""
    B, C = logits_BC.shape
    return max(1, min(B, PARTS_PER_THREAD * nb.get_num_threads(), B * C // SMALLEST_PART))


def _words(tensor: Tensor) -> tuple[Array, int]:
    """The 16-bit words of logits or of their gradient, so that kernels are compiled once; and what they are."""
    if tensor.dtype == torch.bfloat16:  # unknown to NumPy
        tensor = tensor.detach().contiguous().view(torch.uint16)
        return _array(tensor), kernels.BFLOAT16
    return _array(tensor).view(np.uint16), kernels.FLOAT16 if tensor.dtype == torch.float16 else kernels.FLOAT


def _arguments(target: Target, student_temperature: float, dtype: torch.dtype) -> tuple[Any, ...]:
    """What both kernels take for a target; an absent argument is an array of size 0."""
    first = _label(target.labels)
    second = first if target.second is None else _label(target.second)
    nothing = _NOTHING[dtype]
    mix = nothing if target.mix is None else _array(target.mix.to(dtype))
    weight = nothing if target.hard_weight is None else _array(target.hard_weight.to(dtype))
    hard = _NO_IDS if target.hard is None else _array(target.hard)
    return first, second, mix, hard, weight, (float(target.temperature), float(student_temperature))


def _label(labels: Labels) -> tuple[Array, ...]:
    """Labels as label_row takes them."""
    words, weights, rest = _array(labels.classes).view(np.uint16), _array(labels.weights), _array(labels.rest)
    rows = _NO_IDS if labels.rows is None else _array(labels.rows)
    if labels.coded:
        return words, weights, rest, _NO_PROBS, _NO_REST, rows
    return words, _NO_CODES, _NO_TAIL, weights, rest, rows


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array


def _what_is_bad(bad: tuple[int, int, int], num_classes: int, target: Target) -> str:
    if bad[0]:
        return f"{bad[0]} rows are outside of the labels they point to; the plane has {len(target.labels.classes)}"
    if bad[1]:
        return f"{bad[1]} class ids are {num_classes} or more; the labels are damaged"
    return f"{bad[2]} targets are outside of 0 to {num_classes - 1}"
