"""Weighted ensembles: how much each teacher counts, and logits of teachers that differ in scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fastlabel.errors import InputError
from fastlabel.labels.dense_losses import centred_logits
from fastlabel.labels.ops.checks import check_together, check_topk, shares
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels, check_temperature


def accuracy_weights(accuracies: Sequence[float], temperature: float = 0.05) -> list[float]:
    """softmax(accuracies / temperature), for `average` and `average_logits`; accuracies are shares of 1.

    0.05, five points, is the temperature of CV-DD (arXiv 2501.07575). InputError unless all are 0 to 1.
    """
    check_temperature("temperature", temperature)
    values = list(accuracies)
    if not values or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
        raise InputError(f"accuracies are {values}, expected shares from 0 to 1, one for each teacher")
    highest = max(values)
    weights = [math.exp((value - highest) / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def average_scaled_logits(
    labels: Sequence[TopKLabels], temperature: float = 1.0, weights: Sequence[float] | None = None
) -> SparseLabels:
    """softmax(z / temperature), z the mean of the teachers' centred logits after each row got the mean norm of all.

    So a teacher of large logits does not outvote the others (G-VBSM, arXiv 2311.17950, whose code takes the norm of a
    batch; here that of a row, so that a label does not depend on its batch). Makes dense logits [B, C]. Classes that a
    teacher did not keep have the mean logit of those.
    """
    check_temperature("temperature", temperature)
    for label in labels:
        check_topk(label)
    check_together(labels)
    logits_MBC = torch.stack([centred_logits(label, torch.float64) for label in labels])
    norms_MB1 = logits_MBC.norm(dim=2, keepdim=True)
    scaled_MBC = logits_MBC * torch.where(norms_MB1 > 0, norms_MB1.mean(0) / norms_MB1, 1.0)
    parts = torch.tensor(shares(weights, len(labels)), dtype=torch.float64, device=labels[0].device)
    mean_BC = torch.tensordot(parts, scaled_MBC, dims=1)
    return SparseLabels.from_dense(torch.softmax(mean_BC / temperature, 1).float())
