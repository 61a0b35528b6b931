"""transform_cross_entropy in torch operations, on any device: the definition."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastlabel.kernels.transform import transform_probabilities


class Label(NamedTuple):
    """Labels with a transform for each row of a batch.

    Attributes:
        classes, codes, tail: as of top-k labels, [B, K], [B, K] and [B, 2]. coefficients: int8 [B, R].
        basis: float32 [R + 1, C], nats: the mean of the logits, then the components. step: nats of a coefficient.
    """

    classes: Tensor
    codes: Tensor
    tail: Tensor
    coefficients: Tensor
    basis: Tensor
    step: float


def transform_cross_entropy_reference(
    logits_BC: Tensor, label: Label, label_temperature: float, student_temperature: float, kl: bool
) -> tuple[Tensor, Tensor]:
    """Losses [B] in nats, and their gradient in the logits [B, C]: see `transform_cross_entropy`."""
    dtype = torch.float64 if logits_BC.dtype == torch.float64 else torch.float32
    classes, codes, tail, coefficients, basis, step = label
    transform = coefficients, basis[0], basis[1:], step
    probs_BC = transform_probabilities(classes, codes, tail, *transform, label_temperature).to(dtype)
    log_probs_BC = torch.log_softmax(logits_BC.to(dtype) / student_temperature, 1)
    # A weight of zero asks nothing of the student: 0 * -inf is 0 here.
    loss_B = -torch.where(probs_BC > 0, probs_BC * log_probs_BC, 0).sum(1)
    if kl:
        loss_B = loss_B - torch.special.entr(probs_BC).sum(1)
    return loss_B, ((log_probs_BC.exp() - probs_BC) / student_temperature).to(logits_BC.dtype)
