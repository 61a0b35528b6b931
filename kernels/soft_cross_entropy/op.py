"""soft_cross_entropy: checks its arguments and picks the backend."""

from __future__ import annotations

from torch import Tensor

from fastlabel.kernels.label_format import check_labels, check_temperature
from fastlabel.kernels.soft_cross_entropy.reference import soft_cross_entropy_reference


def soft_cross_entropy(
    logits_BC: Tensor,
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    label_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of a student's logits against stored labels, in nats; differentiable in the logits.

    Equals `F.cross_entropy(logits / student_temperature, decode_topk(..., label_temperature))`, without the
    dense target and without Hinton's factor T^2. The tail is part of the target.

    Args:
        logits_BC: any floating dtype, on the device of the labels; computed in float32 (float64 in float64).
        classes_BK, codes_BK, tail_B2: labels over C classes, as `encode_topk` returns them.
        label_temperature, student_temperature: divide the teacher's and the student's logits; positive.
        reduction: "mean" or "sum" over the batch, or "none" for one loss per row.

    Raises:
        TypeError, ValueError: on arguments of another dtype, shape, device or value.
    """
    if not logits_BC.is_floating_point():
        raise TypeError(f"logits have dtype {logits_BC.dtype}, expected a floating dtype")
    if logits_BC.ndim != 2 or logits_BC.shape[0] != classes_BK.shape[0]:
        raise ValueError(f"logits have shape {tuple(logits_BC.shape)}, expected [{classes_BK.shape[0]}, C]")
    check_labels(classes_BK, codes_BK, tail_B2, logits_BC.shape[1])
    if logits_BC.device != codes_BK.device:
        raise ValueError(f"logits are on {logits_BC.device} and labels on {codes_BK.device}, expected one device")
    check_temperature("label_temperature", label_temperature)
    check_temperature("student_temperature", student_temperature)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, expected 'mean', 'sum' or 'none'")
    return soft_cross_entropy_reference(
        logits_BC, classes_BK, codes_BK, tail_B2, label_temperature, student_temperature, reduction
    )
