"""soft_cross_entropy: checks its arguments; one operator forward, one backward, each with a backend per device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastlabel.kernels.soft_cross_entropy.checks import check_arguments
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target, target_parts
from fastlabel.kernels.soft_cross_entropy.reference import (
    loss_dtype,
    soft_cross_entropy_backward_reference,
    soft_cross_entropy_reference,
    target_entropy,
)


def soft_cross_entropy(
    logits_BC: Tensor,
    target: Target,
    student_temperature: float = 1.0,
    reduction: str = "mean",
    *,
    temperature_squared: bool = False,
    divergence: str = "cross-entropy",
) -> Tensor:
    """Cross-entropy of a student's logits against stored labels, in nats; differentiable once, in the logits.

    Equals `F.cross_entropy(logits / student_temperature, dense target)`, but makes no dense target: logits are read
    once, once more for the gradient, and that is written once. The tail of a label is part of the target.

    Args:
        logits_BC: float32, bfloat16 or float16, computed in float32; or float64.
        target: what the student is to match.
        student_temperature: divides the student's logits; positive.
        reduction: "mean" or "sum" over the batch, or "none" for one loss per row.
        temperature_squared: multiply by student_temperature ** 2 (Hinton et al., 2015), which keeps the size of the
            gradient when both temperatures grow together.
        divergence: "cross-entropy", or "kl": less the target's entropy, so 0 where the student matches it.

    Raises:
        TypeError, ValueError: on arguments of another dtype, shape, device or value; on the CPU also for rows, class
            ids and targets out of range. On a GPU, which would have to wait, the loss of such a row is NaN.
    """
    check_arguments(logits_BC, target, student_temperature, reduction, divergence)
    entropy_B = None
    if divergence == "kl":
        with torch.no_grad():
            entropy_B = target_entropy(target_parts(target, logits_BC.shape[1], torch.float64), logits_BC.shape[1])
    factor = float(student_temperature) ** 2 if temperature_squared else 1.0
    # Tensors of another type are those that trace: they see the operator.
    if torch.compiler.is_compiling() or type(logits_BC) not in (Tensor, torch.nn.Parameter):
        loss_B = soft_cross_entropy_forward(logits_BC, *_flatten(target, float(student_temperature)))[0]
        return _reduce(loss_B, entropy_B, reduction, factor)
    # The operator's way through the dispatcher takes longer than the loss of a small batch.
    loss: Tensor = _Eager.apply(logits_BC, target, float(student_temperature), entropy_B, reduction, factor)
    return loss


def _reduce(loss_B: Tensor, entropy_B: Tensor | None, reduction: str, factor: float) -> Tensor:
    if entropy_B is not None:
        loss_B = loss_B - entropy_B.to(loss_B.dtype)
    loss = loss_B if reduction == "none" else loss_B.sum() if reduction == "sum" else loss_B.mean()
    return loss if factor == 1 else loss * factor


def _runs_in_triton(logits_BC: Tensor, target: Target) -> bool:
    if not logits_BC.is_cuda:
        return False
    from fastlabel.kernels.soft_cross_entropy import triton

    return triton.can_run(target)


def _forward(logits_BC: Tensor, target: Target, student_temperature: float) -> tuple[Tensor, Tensor]:
    """Losses [B], and what `_backward` needs of each row, [B, stats_width]."""
    if logits_BC.is_cpu:
        from fastlabel.kernels.soft_cross_entropy import cpu

        return cpu.forward(logits_BC, target, student_temperature)
    if _runs_in_triton(logits_BC, target):
        from fastlabel.kernels.soft_cross_entropy import triton

        return triton.forward(logits_BC, target, student_temperature)
    loss_B = soft_cross_entropy_reference(logits_BC, target, student_temperature)
    return loss_B, loss_B.new_empty(len(loss_B), stats_width(logits_BC, target))


def _backward(
    grad: Tensor, stats_BS: Tensor, logits_BC: Tensor, target: Target, student_temperature: float, weight: float = 1.0
) -> Tensor:
    """The gradient in the logits [B, C], of their dtype, from a weight times that in the losses, [B] or one for all."""
    if _runs_in_triton(logits_BC, target):
        from fastlabel.kernels.soft_cross_entropy import triton

        return triton.backward(grad, logits_BC, stats_BS, student_temperature, weight)
    grad_B = (grad * weight).expand(len(logits_BC))
    if logits_BC.is_cpu:
        from fastlabel.kernels.soft_cross_entropy import cpu

        return cpu.backward(grad_B, logits_BC, stats_BS, target, student_temperature)
    return soft_cross_entropy_backward_reference(grad_B, logits_BC, target, student_temperature)


def stats_width(logits_BC: Tensor, target: Target) -> int:
    """Numbers for backward in each row: the top logit and the log-sum-exp above it; of Triton also the target.

    Those are its rest and its mass, and weight and id of each class that it lists.
    """
    return 2 if logits_BC.is_cpu else 4 + 2 * target.listed


class _Eager(torch.autograd.Function):
    """The same as the operator below and the reduction, called directly."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Target,
        student_temperature: float,
        entropy: Tensor | None,
        reduction: str,
        factor: float,
    ) -> Tensor:
        loss, stats = _forward(logits, target, student_temperature)
        ctx.numbers = (student_temperature, factor / max(len(loss), 1) if reduction == "mean" else factor)
        ctx.target = target
        # Tensors of the target too: autograd then sees that one was changed in place before backward, which on a GPU
        # does not read them. Those made in inference mode have no version, and cannot be saved so.
        read = () if _runs_in_triton(logits, target) else _flatten(target, student_temperature)[:-2]
        ctx.save_for_backward(logits, stats, *(x for x in read if x is not None and not x.is_inference()))
        return _reduce(loss, entropy, reduction, factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, stats = ctx.saved_tensors[:2]
        temperature, weight = ctx.numbers
        if torch.is_grad_enabled():  # with create_graph: the operator explains that there is no second derivative
            grad = (grads[0] * weight).expand(len(logits))
            gradient = soft_cross_entropy_backward(grad, stats, logits, *_flatten(ctx.target, temperature))
        else:
            gradient = _backward(grads[0], stats, logits, ctx.target, temperature, weight)
        return gradient, None, None, None, None, None


def _flatten(target: Target, student_temperature: float) -> tuple[Any, ...]:
    """A target as operators take it: tensors and numbers."""
    second = target.second or (None, None, None, None)
    rest = (target.mix, target.hard, target.hard_weight, float(target.temperature), float(student_temperature))
    return (*target.labels, *second, *rest)


def _unflatten(*flat: Any) -> Target:
    second = None if flat[4] is None else Labels(*flat[4:8])
    mix, hard, hard_weight, temperature = flat[8:]
    return Target(Labels(*flat[:4]), temperature, second, mix, hard, hard_weight)


@torch.library.custom_op("fastlabel::soft_cross_entropy", mutates_args=())
def soft_cross_entropy_forward(
    logits: Tensor,
    classes: Tensor,
    weights: Tensor,
    rest: Tensor,
    rows: Tensor | None,
    second_classes: Tensor | None,
    second_weights: Tensor | None,
    second_rest: Tensor | None,
    second_rows: Tensor | None,
    mix: Tensor | None,
    hard: Tensor | None,
    hard_weight: Tensor | None,
    label_temperature: float,
    student_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Losses [B], and what backward needs of each row, [B, stats_width]."""
    target = _unflatten(
        classes, weights, rest, rows, second_classes, second_weights, second_rest, second_rows,
        mix, hard, hard_weight, label_temperature,
    )  # fmt: skip
    return _forward(logits, target, student_temperature)


@torch.library.custom_op("fastlabel::soft_cross_entropy_backward", mutates_args=())
def soft_cross_entropy_backward(
    grad: Tensor,
    stats: Tensor,
    logits: Tensor,
    classes: Tensor,
    weights: Tensor,
    rest: Tensor,
    rows: Tensor | None,
    second_classes: Tensor | None,
    second_weights: Tensor | None,
    second_rest: Tensor | None,
    second_rows: Tensor | None,
    mix: Tensor | None,
    hard: Tensor | None,
    hard_weight: Tensor | None,
    label_temperature: float,
    student_temperature: float,
) -> Tensor:
    """The gradient in the logits [B, C], of their dtype, from that in the losses [B]."""
    target = _unflatten(
        classes, weights, rest, rows, second_classes, second_weights, second_rest, second_rows,
        mix, hard, hard_weight, label_temperature,
    )  # fmt: skip
    return _backward(grad, stats, logits, target, student_temperature)


@soft_cross_entropy_forward.register_fake
def _(logits: Tensor, *flat: Any) -> tuple[Tensor, Tensor]:
    B, dtype = logits.shape[0], loss_dtype(logits.dtype)
    width = stats_width(logits, _unflatten(*flat[:-1]))
    return logits.new_empty(B, dtype=dtype), logits.new_empty(B, width, dtype=dtype)


@soft_cross_entropy_backward.register_fake
def _(grad: Tensor, stats: Tensor, logits: Tensor, *flat: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.label_temperature, ctx.student_temperature = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    stats, logits, *rest = ctx.saved_tensors
    gradient = soft_cross_entropy_backward(grad, stats, logits, *rest, ctx.label_temperature, ctx.student_temperature)
    return gradient, *(None for _ in range(13))


def _no_second_derivative(ctx: Any, grad: Tensor) -> tuple[None, ...]:
    raise NotImplementedError("soft_cross_entropy has no second derivative; differentiate it once")


soft_cross_entropy_forward.register_autograd(_differentiate, setup_context=_setup_context)
soft_cross_entropy_backward.register_autograd(_no_second_derivative)
