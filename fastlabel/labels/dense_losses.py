"""Losses that compare all classes of a label with a student's logits [B, C]. docs/recipes.md has formulas and sources.

Each gives one loss per row, float32 (float64 for float64 logits), differentiable in the logits. They make a dense
[B, C] label; `soft_cross_entropy`, the loss of soft-ce and kl, does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel.kernels.label_format import CODES_PER_NAT, SATURATED_CODE, UNDEFINED_MEAN_GAP, ZERO_MASS, widen
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.sparse import SparseLabels, spread
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform import TransformLabels

LARGEST_GAP = SATURATED_CODE / CODES_PER_NAT  # nats below the top logit: what a code can say; also of probability zero
GIFT_HARD_SHARE, GIFT_SMOOTHING = 0.1, 0.1
DIST_EPSILON = 1e-8


def centred_logits(labels: SoftLabels, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits of the teacher [B, C] with mean 0 over the classes, in nats: a label knows them up to a constant.

    Of labels that keep the top K each other class has the mean logit of those that were not kept. No logit is more than
    31.75 nats below the top one: that is the largest gap of a code, and stands for a probability of zero too.
    """
    if isinstance(labels, TransformLabels):
        logits_BC = labels.logits(dtype)
    elif isinstance(labels, TopKLabels):
        logits_BC = _topk_logits(labels).to(dtype)
    else:
        logits_BC = labels.dense().to(dtype).log()
        logits_BC = logits_BC - logits_BC.amax(1, keepdim=True).nan_to_num(neginf=0.0)
    logits_BC = logits_BC.clamp(min=-LARGEST_GAP)
    return logits_BC - logits_BC.mean(1, keepdim=True)


def _topk_logits(labels: TopKLabels) -> Tensor:
    """Logits below the top one [B, C], float64: gaps of the kept classes, the mean gap of all others."""
    tail_B2 = widen(labels.tail)
    gap_B = tail_B2[:, 1].to(torch.float64) / CODES_PER_NAT
    unknown = (tail_B2[:, 1] == UNDEFINED_MEAN_GAP) | (tail_B2[:, 0] == ZERO_MASS)
    if labels.k < labels.num_classes:
        # Where a tail logit was minus infinity its mean is; what the mass says of a class is then all there is.
        _, even_B = labels.probabilities(1.0)
        top_B = labels.probabilities(1.0)[0][:, 0]
        gap_B = torch.where(unknown, -(even_B.double() / top_B.double()).log(), gap_B)
    gaps_BK = labels.codes.to(torch.float64) / CODES_PER_NAT
    return spread(widen(labels.classes).to(torch.int32), -gaps_BK, -gap_B, labels.num_classes)


def dense_probabilities(labels: SoftLabels, temperature: float, dtype: torch.dtype) -> Tensor:
    """Probabilities [B, C]; SparseLabels were tempered when they were made."""
    dense_BC = labels.dense() if isinstance(labels, SparseLabels) else labels.dense(temperature)
    return dense_BC.to(dtype)


def mse_logits(logits_BC: Tensor, labels: SoftLabels) -> Tensor:
    """Mean over the classes of the squared difference of logits, in nats squared [B] (arXiv 2105.08919).

    Of centred logits, but of the logits themselves where the labels have kept their mean (`--logit-offset`).
    """
    wide = _wide(logits_BC)
    mean_B = labels.mean_logits if isinstance(labels, TransformLabels) else None
    wanted_BC = centred_logits(labels, wide.dtype)
    if mean_B is None:
        difference = wide - wide.mean(1, keepdim=True) - wanted_BC
    else:
        difference = wide - wanted_BC - mean_B[:, None].to(wide.dtype)
    return difference.square().mean(1)


def gift(
    logits_BC: Tensor,
    labels: SoftLabels,
    targets_B: Tensor,
    second_B: Tensor | None = None,
    own_share_B: Tensor | None = None,
) -> Tensor:
    """1 - cosine of the student's logits and the refined label [B], without a unit (arXiv 2405.14736)."""
    wide = _wide(logits_BC)
    smoothed_BC = _smoothed(wide, targets_B)
    if second_B is not None and own_share_B is not None:
        own_B1 = own_share_B[:, None].to(wide.dtype)
        smoothed_BC = own_B1 * smoothed_BC + (1 - own_B1) * _smoothed(wide, second_B)
    soft_BC, hard_BC = F.normalize(centred_logits(labels, wide.dtype), dim=1), F.normalize(smoothed_BC, dim=1)
    refined_BC = (1 - GIFT_HARD_SHARE) * soft_BC + GIFT_HARD_SHARE * hard_BC
    return 1 - F.cosine_similarity(wide, refined_BC.detach(), dim=1)


def _smoothed(like_BC: Tensor, targets_B: Tensor) -> Tensor:
    rest = GIFT_SMOOTHING / max(1, like_BC.shape[1] - 1)
    return torch.full_like(like_BC, rest, requires_grad=False).scatter_(1, targets_B[:, None], 1 - GIFT_SMOOTHING)


def dist(logits_BC: Tensor, probs_BC: Tensor, student_temperature: float = 1.0) -> Tensor:
    """Pearson's distance of each row, and the mean one of all columns, times the squared temperature [B].

    arXiv 2205.10536, with beta = gamma = 1. The columns (how the samples of a batch compare in one class) are those
    of this batch; on several ranks of each rank's part of it, as in the authors' code.
    """
    student_BC = torch.softmax(_wide(logits_BC) / student_temperature, dim=1)
    probs_BC = probs_BC.to(student_BC.dtype)
    inter_B = 1 - _pearson(student_BC, probs_BC, 1)
    intra = 1 - _pearson(student_BC, probs_BC, 0).mean()
    return (inter_B + intra) * student_temperature**2


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    return (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim) + DIST_EPSILON)


def _wide(logits_BC: Tensor) -> Tensor:
    return logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()
