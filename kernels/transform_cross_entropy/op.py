"""transform_cross_entropy: checks its arguments; the loss and its gradient are computed together, with one backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastlabel.kernels.label_format import check_labels, check_temperature
from fastlabel.kernels.soft_cross_entropy.checks import check_options
from fastlabel.kernels.transform_cross_entropy.reference import Label, transform_cross_entropy_reference

NO_SECOND = "transform_cross_entropy has no second derivative; differentiate it once"


def transform_cross_entropy(
    logits_BC: Tensor,
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    coefficients_BR: Tensor,
    basis_DC: Tensor,
    step: float,
    label_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: str = "mean",
    *,
    temperature_squared: bool = False,
    divergence: str = "cross-entropy",
) -> Tensor:
    """Cross-entropy of a student's logits against labels with a transform, in nats; differentiable once, in the logits.

    Equals `F.cross_entropy(logits / student_temperature, transform_probabilities(...))`. On the CPU the product of
    coefficients and basis lies where the gradient will be, and becomes it: there is no dense target beside it.

    Args:
        logits_BC: float32, bfloat16 or float16, computed in float32; or float64.
        classes_BK, codes_BK, tail_B2, coefficients_BR, step: labels, as `transform_probabilities` takes them.
        basis_DC: float32 [R + 1, C], nats: the mean of the logits, then the components.
        label_temperature, student_temperature: divide the label's logits and the student's; positive.
        reduction, temperature_squared, divergence: as of `soft_cross_entropy`.

    Raises:
        TypeError, ValueError: on tensors that do not fit together, and other values of an option; on the CPU also on
            class ids out of range.
    """
    if logits_BC.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"logits have dtype {logits_BC.dtype}, expected float32, float64, bfloat16 or float16")
    if tuple(logits_BC.shape) != (len(classes_BK), basis_DC.shape[1]):
        raise ValueError(f"logits {tuple(logits_BC.shape)} for {len(classes_BK)} labels of {basis_DC.shape[1]} classes")
    check_labels(classes_BK, codes_BK, tail_B2, basis_DC.shape[1])
    check_temperature("label_temperature", label_temperature)
    check_temperature("student_temperature", student_temperature)
    check_options(reduction, divergence)
    label = Label(classes_BK, codes_BK, tail_B2, coefficients_BR, basis_DC, float(step))
    temperatures, kl = (float(label_temperature), float(student_temperature)), divergence == "kl"
    factor = temperatures[1] ** 2 if temperature_squared else 1.0
    needs_gradient = torch.is_grad_enabled() and logits_BC.requires_grad
    # Tensors of another type are those that trace: they see the operator.
    if torch.compiler.is_compiling() or type(logits_BC) not in (Tensor, torch.nn.Parameter):
        loss_B, _ = _operator(logits_BC, *label, *temperatures, kl, needs_gradient)
        return _reduce(loss_B, reduction, factor)
    if not needs_gradient:
        return _reduce(_forward(logits_BC, label, temperatures, kl, 1.0, False)[0], reduction, factor)
    loss: Tensor = _Eager.apply(logits_BC, label, temperatures, kl, reduction, factor)
    return loss


def _reduce(loss_B: Tensor, reduction: str, factor: float) -> Tensor:
    total = loss_B if reduction == "none" else loss_B.sum()
    scale = factor / max(1, len(loss_B)) if reduction == "mean" else factor
    return total if scale == 1 else total * scale


def _forward(
    logits_BC: Tensor, label: Label, temperatures: tuple[float, float], kl: bool, factor: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Losses [B], and their gradient times a factor, of `_kept_dtype`: [B, C], or [0, C] if it is not asked for."""
    logits_BC = logits_BC.to(_kept_dtype(logits_BC.dtype))
    if logits_BC.is_cpu and logits_BC.dtype != torch.float64:
        from fastlabel.kernels.transform_cross_entropy import cpu

        return cpu.forward(logits_BC, label, temperatures, kl, factor, with_gradient)
    loss, gradient = transform_cross_entropy_reference(logits_BC, label, *temperatures, kl)
    return loss, gradient.mul_(factor) if with_gradient else gradient[:0].clone()


def _kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of a gradient that waits for that in the loss: a loss scale is there to lift what float16 takes for zero."""
    return torch.float32 if dtype == torch.float16 else dtype


class _Eager(torch.autograd.Function):
    """The operator and the reduction, called directly; the gradient comes with its factor."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Label,
        temperatures: tuple[float, float],
        kl: bool,
        reduction: str,
        factor: float,
    ) -> Tensor:
        weight = factor / max(1, len(logits)) if reduction == "mean" else factor
        loss, gradient = _forward(logits, label, temperatures, kl, weight, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient, logits)
        return _reduce(loss, reduction, factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient, logits), grad = ctx.saved_tensors, grads[0]
        if torch.is_grad_enabled():  # with create_graph: the operator explains that there is no second derivative
            gradient = _scale(grad.expand(len(logits)), gradient, logits)
        # `loss.backward()` asks for just that: a pass over it is saved.
        elif grad.ndim or not grad.is_cpu or float(grad) != 1 or gradient.dtype != logits.dtype:
            gradient = _scaled(grad, gradient, logits.dtype)
        return gradient, None, None, None, None, None


def _scaled(grad: Tensor, gradient_BC: Tensor, dtype: torch.dtype) -> Tensor:
    """Times the gradient in the losses, [B] or one for all, and only then rounded."""
    return (gradient_BC * (grad[:, None] if grad.ndim else grad)).to(dtype)


@torch.library.custom_op("fastlabel::transform_cross_entropy_backward", mutates_args=())
def _scale(grad: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    """The gradient in the logits [B, C], of their dtype, from that in the losses [B]."""
    return _scaled(grad, gradient, logits.dtype)


@_scale.register_fake
def _(grad: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def _no_second_derivative(ctx: Any, grad: Tensor) -> tuple[None, ...]:
    raise NotImplementedError(NO_SECOND)


_scale.register_autograd(_no_second_derivative)


@torch.library.custom_op("fastlabel::transform_cross_entropy", mutates_args=())
def _operator(
    logits: Tensor,
    classes: Tensor,
    codes: Tensor,
    tail: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    step: float,
    label_temperature: float,
    student_temperature: float,
    kl: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Losses [B], and their gradient in the logits [B, C], or [0, C]."""
    label = Label(classes, codes, tail, coefficients, basis, step)
    return _forward(logits, label, (label_temperature, student_temperature), kl, 1.0, with_gradient)


@_operator.register_fake
def _(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    B, C = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    gradient = logits.new_empty(B if rest[-1] else 0, C, dtype=_kept_dtype(logits.dtype))
    return logits.new_empty(B, dtype=dtype), gradient


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], inputs[0])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return _scale(grad, *ctx.saved_tensors), *(None for _ in range(10))


_operator.register_autograd(_differentiate, setup_context=_setup_context)
