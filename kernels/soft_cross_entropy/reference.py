"""soft_cross_entropy in torch operations, on any device: the definition that every backend equals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastlabel.kernels.soft_cross_entropy.labels import Part, Target, target_parts


def loss_dtype(logits_dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 logits, else float32."""
    return torch.float64 if logits_dtype == torch.float64 else torch.float32


def soft_cross_entropy_reference(
    logits_BC: Tensor,
    target: Target,
    student_temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of each row in nats [B], float64 for float64 logits, else float32: see `soft_cross_entropy`."""
    dtype, C = loss_dtype(logits_BC.dtype), logits_BC.shape[1]
    log_probs_BC = torch.log_softmax(logits_BC.to(dtype) / student_temperature, dim=1)
    parts = target_parts(target, C, dtype)
    return _sum([_part_loss(log_probs_BC, part) for part in parts])


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def _part_loss(log_probs_BC: Tensor, part: Part) -> Tensor:
    listed_BK = part.weights * log_probs_BC.gather(1, part.classes)
    # The rest is summed by itself: a total minus the listed part cancels where a listed logit is very low.
    listed_BC = torch.zeros_like(log_probs_BC).scatter_add(1, part.classes, part.listed.to(log_probs_BC.dtype))
    rest_B = part.rest * torch.where(listed_BC > 0, 0, log_probs_BC).sum(1)
    # A weight of zero asks nothing of the student: 0 * -inf is 0 here.
    loss_B = -torch.where(part.weights != 0, listed_BK, 0).sum(1) - torch.where(part.rest != 0, rest_B, 0)
    return torch.where(part.share != 0, part.share * loss_B, 0)


def soft_cross_entropy_backward_reference(
    grad_B: Tensor,
    logits_BC: Tensor,
    target: Target,
    student_temperature: float = 1.0,
) -> Tensor:
    """Gradient in the logits [B, C], of their dtype: (mass * softmax - target) / student_temperature times grad_B."""
    dtype, C = loss_dtype(logits_BC.dtype), logits_BC.shape[1]
    gradient_BC = torch.softmax(logits_BC.to(dtype) / student_temperature, dim=1)
    parts = target_parts(target, C, dtype)
    gradient_BC = gradient_BC * _sum([part.share * mass(part, C) for part in parts])[:, None]
    gradient_BC -= _sum([part.share * part.rest for part in parts])[:, None]
    for part in parts:
        above = torch.where(part.listed, part.weights - part.rest[:, None], 0)
        gradient_BC.scatter_add_(1, part.classes, -part.share[:, None] * above)
    return (gradient_BC * (grad_B.to(dtype) / student_temperature)[:, None]).to(logits_BC.dtype)


def mass(part: Part, num_classes: int) -> Tensor:
    """The sum of a part's weights over all classes, before its share [B]."""
    return part.weights.sum(1) + (num_classes - part.listed.sum(1)) * part.rest


def target_entropy(parts: Sequence[Part], num_classes: int) -> Tensor:
    """Entropy of the sum of parts in nats, float64 [B]: over the union of their listed classes, never over all C.

    For weights y that do not sum to 1 it is minus the sum of y ln y.
    """
    base_B = _sum([part.share.double() * part.rest.double() for part in parts])
    ids = torch.cat([torch.where(part.listed, part.classes, -1) for part in parts], dim=1)
    above = torch.cat(
        [part.share.double()[:, None] * (part.weights.double() - part.rest.double()[:, None]) for part in parts], dim=1
    )
    ids, order = ids.sort(dim=1)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    # Entries of one class are neighbours now: add them up, in the place of the first one's number.
    added = torch.zeros_like(above).scatter_add_(1, first.cumsum(1) - 1, above.gather(1, order))
    distinct = torch.full_like(ids, -1).scatter_reduce_(1, first.cumsum(1) - 1, ids, "amax")
    used = distinct >= 0
    weights = torch.where(used, (base_B[:, None] + added).clamp(min=0), 0)
    unlisted = (num_classes - used.sum(1)) * torch.xlogy(base_B, base_B)
    return -torch.xlogy(weights, weights).sum(1) - unlisted
