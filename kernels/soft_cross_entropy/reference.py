"""soft_cross_entropy in torch operations, on any device: the definition that every backend equals."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.decode_topk import topk_probabilities
from fastlabel.kernels.label_format import widen


def soft_cross_entropy_reference(
    logits_BC: Tensor,
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    label_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy in nats, float64 for float64 logits, else float32: see `soft_cross_entropy`."""
    probs_BK, tail_prob_B = topk_probabilities(codes_BK, tail_B2, logits_BC.shape[1], label_temperature)
    if logits_BC.dtype != torch.float64:
        logits_BC = logits_BC.to(torch.float32)
    if student_temperature != 1:
        logits_BC = logits_BC / student_temperature
    log_probs_BC = torch.log_softmax(logits_BC, dim=1)
    classes_BK = widen(classes_BK).to(torch.int64)
    kept_BK = probs_BK * log_probs_BC.gather(1, classes_BK)
    # The tail is summed by itself: a total minus the kept part cancels where a kept logit is very low.
    tail_B = tail_prob_B * log_probs_BC.scatter(1, classes_BK, 0.0).sum(1)
    # A probability of zero asks nothing of the student: 0 * -inf is 0 here.
    loss_B = -torch.where(probs_BK > 0, kept_BK, 0.0).sum(1) - torch.where(tail_prob_B > 0, tail_B, 0.0)
    if reduction == "none":
        return loss_B
    return loss_B.sum() if reduction == "sum" else loss_B.mean()
