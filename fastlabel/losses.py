"""Losses of a student against stored labels."""

from __future__ import annotations

from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels import soft_cross_entropy as _op
from fastlabel.labels import TopKLabels, check_temperature


def soft_cross_entropy(
    logits: Tensor,
    labels: TopKLabels,
    label_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy in nats of logits [B, C] against B labels, differentiable in the logits.

    Equals `F.cross_entropy(logits / student_temperature, labels.dense(label_temperature))`, without the dense
    target and without a factor T^2. Logits of bfloat16 or float16 are computed in float32. `reduction` is
    "mean" or "sum" over the batch, or "none": one loss per row.

    Raises InputError when logits and labels do not fit together, or on another temperature or reduction.
    """
    if logits.shape != (len(labels), labels.num_classes):
        raise InputError(f"logits have shape {tuple(logits.shape)}, expected {(len(labels), labels.num_classes)}")
    if logits.device != labels.device:
        raise InputError(f"logits are on {logits.device} and labels on {labels.device}; move one with .to()")
    check_temperature("label_temperature", label_temperature)
    check_temperature("student_temperature", student_temperature)
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction is {reduction!r}, expected 'mean', 'sum' or 'none'")
    return _op.soft_cross_entropy(
        logits, labels.classes, labels.codes, labels.tail, label_temperature, student_temperature, reduction
    )
