"""What labels keep of a teacher's logits: the share of KL(teacher || uniform), both at a temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastlabel.labels.topk import TopKLabels, check_temperature


def true_information_kept(logits_BC: Tensor, labels: TopKLabels, temperature: float) -> float:
    """1 - sum KL(p || label) / sum KL(p || uniform) over B labels, p = softmax(logits / temperature).

    1 is everything, 0 no more than equal probabilities say. -inf where a label gives 0 to what the teacher does not.
    """
    kl, whole = lost_nats(logits_BC, labels, temperature)
    return 1 - kl / whole if whole > 0 else 1.0


def lost_nats(logits_BC: Tensor, labels: TopKLabels, temperature: float) -> tuple[float, float]:
    """Mean KL(p || label) and mean KL(p || uniform) in nats, p = softmax(logits / temperature)."""
    check_temperature("temperature", temperature)
    log_p_BC = torch.log_softmax(logits_BC.double() / temperature, dim=1)
    p_BC = log_p_BC.exp()
    whole_B = math.log(logits_BC.shape[1]) - torch.special.entr(p_BC).sum(1)
    # Where p is 0 its term is 0, whatever the label says.
    terms_BC = torch.where(p_BC > 0, p_BC * (log_p_BC - labels.dense(temperature).double().log()), 0)
    return float(terms_BC.sum(1).mean()), float(whole_B.mean())
