"""Checks of the loss's arguments: dtypes, shapes, devices, options. They read no values, so a GPU need not wait."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.label_format import check_labels, check_temperature
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target

REDUCTIONS, DIVERGENCES = ("mean", "sum", "none"), ("cross-entropy", "kl")


def check_options(reduction: str, divergence: str) -> None:
    """Raise ValueError on another value of one of them."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected 'mean', 'sum' or 'none'")
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}, expected 'cross-entropy' or 'kl'")


def check_arguments(
    logits_BC: Tensor, target: Target, student_temperature: float, reduction: str, divergence: str
) -> None:
    """Raise TypeError or ValueError, naming the argument, unless all fit together."""
    _check_logits(logits_BC)
    _check_batch("labels", target.labels, logits_BC)
    check_temperature("label_temperature", target.temperature)
    check_temperature("student_temperature", student_temperature)
    if target.temperature != 1 and not target.labels.coded:
        raise ValueError(
            f"label_temperature is {target.temperature}, expected 1: weighted labels were tempered when they were made"
        )
    _check_second(target, logits_BC)
    if (target.hard is None) != (target.hard_weight is None):
        raise ValueError("expected both targets and target_weight, or neither")
    if target.hard is not None and target.hard_weight is not None:
        _check_per_row("targets", target.hard, logits_BC, torch.int64)
        _check_per_row("target_weight", target.hard_weight, logits_BC)
    check_options(reduction, divergence)


def _check_second(target: Target, logits_BC: Tensor) -> None:
    if (target.second is None) != (target.mix is None):
        raise ValueError("expected both second and mix, or neither")
    if target.second is None or target.mix is None:
        return
    if target.second.coded != target.labels.coded:
        raise ValueError("labels and second are of two forms, coded and weighted; expected one")
    _check_batch("second", target.second, logits_BC)
    _check_per_row("mix", target.mix, logits_BC)


def _check_logits(logits_BC: Tensor) -> None:
    """Raise TypeError or ValueError unless logits are floating [B, C]."""
    if logits_BC.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"logits have dtype {logits_BC.dtype}, expected float32, float64, bfloat16 or float16")
    if logits_BC.ndim != 2 or logits_BC.shape[1] < 1:
        raise ValueError(f"logits have shape {tuple(logits_BC.shape)}, expected [B, C]")


def _check_batch(name: str, labels: Labels, logits_BC: Tensor) -> None:
    """Raise TypeError or ValueError unless these are labels for each row of the logits."""
    B, C = logits_BC.shape
    if labels.coded:
        check_labels(labels.classes, labels.weights, labels.rest, C)
    else:
        _check_weighted(labels, C)
    if labels.rows is None and labels.classes.shape[0] != B:
        raise ValueError(
            f"logits have shape {tuple(logits_BC.shape)}, expected [{labels.classes.shape[0]}, C] as {name} have rows"
        )
    if labels.rows is not None:
        _check_per_row(f"rows of {name}", labels.rows, logits_BC, torch.int64)
        if B and not labels.classes.shape[0]:
            raise ValueError(f"{name} are {B} rows of a plane that has none")
    if labels.classes.device != logits_BC.device:
        raise ValueError(f"logits are on {logits_BC.device} and {name} on {labels.classes.device}, expected one device")


def _check_weighted(labels: Labels, num_classes: int) -> None:
    P = labels.classes.shape[0]
    for name, tensor, dtype in zip(
        ("classes", "weights", "rest"), labels[:3], (torch.int32, torch.float32, torch.float32), strict=True
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"{name} have dtype {tensor.dtype}, expected {dtype}, or codes of dtype torch.uint8")
        if tensor.device != labels.classes.device:
            raise ValueError(
                f"{name} are on {tensor.device} and classes on {labels.classes.device}, expected one device"
            )
    if labels.classes.ndim != 2 or not 1 <= labels.classes.shape[1] <= num_classes:
        raise ValueError(
            f"classes have shape {tuple(labels.classes.shape)}, expected [P, K] with K from 1 to {num_classes} classes"
        )
    if labels.weights.shape != labels.classes.shape:
        raise ValueError(f"weights have shape {tuple(labels.weights.shape)}, expected {tuple(labels.classes.shape)}")
    if labels.rest.shape != (P,):
        raise ValueError(f"rest has shape {tuple(labels.rest.shape)}, expected {(P,)}")


def _check_per_row(name: str, tensor: Tensor, logits_BC: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise TypeError or ValueError unless the tensor is [B], beside the logits, of that dtype (None: any floating)."""
    if tensor.dtype != dtype if dtype else not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {dtype or 'a floating one'}")
    if tensor.shape != logits_BC.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(logits_BC.shape[:1])}")
    if tensor.device != logits_BC.device:
        raise ValueError(f"{name} is on {tensor.device} and logits on {logits_BC.device}, expected one device")
