"""What a sparse label says in one number."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.labels.ops.checks import check_sparse
from fastlabel.labels.ops.support import unlisted_class
from fastlabel.labels.sparse import SparseLabels


def entropy(labels: SparseLabels) -> Tensor:
    """Entropy of each row in nats, float64 [B], of the row divided by its mass; NaN where it has none."""
    check_sparse(labels)
    mass, rest, probs = labels.mass(), labels.rest.double(), labels.probs.double()
    surprise = torch.special.entr(probs).sum(1) + labels.unlisted() * torch.special.entr(rest)
    return (surprise / mass + mass.log()).clamp_(min=0)


def top1(labels: SparseLabels) -> Tensor:
    """The most likely class of each row, int64 [B]: among the listed ones, or the lowest id where none has weight."""
    check_sparse(labels)
    place = labels.probs.masked_fill(labels.classes < 0, -1).argmax(dim=1, keepdim=True)  # the first of equal ones
    first = labels.classes.gather(1, place)[:, 0].to(torch.int64)
    nothing = (labels.probs.gather(1, place)[:, 0] <= 0) & (labels.unlisted() > 0)
    if not bool(nothing.any()):
        return first
    return torch.where(nothing, unlisted_class(labels, torch.zeros_like(first)), first)
