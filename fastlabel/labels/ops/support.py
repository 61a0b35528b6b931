"""The support of sparse labels, the classes that a row lists: their order, those left out, unions of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastlabel.labels.sparse import SparseLabels, look_up, spread


def build(classes_BM: Tensor, probs_BM: Tensor, rest_B: Tensor, num_classes: int) -> SparseLabels:
    """Labels of tensors in whatever precision they were computed; the rest becomes 0 where all classes are listed."""
    if classes_BM.shape[1] == num_classes:
        rest_B = rest_B.masked_fill((classes_BM >= 0).all(1), 0)
    return SparseLabels(classes_BM.to(torch.int32), probs_BM.float(), rest_B.float(), num_classes)


def over_mass(classes_BM: Tensor, probs_BM: Tensor, rest_B: Tensor, num_classes: int) -> SparseLabels:
    """Labels with rows divided by their mass in float64; a row without mass stays all zero."""
    unlisted = num_classes - (classes_BM >= 0).sum(1)
    mass = probs_BM.double().sum(1) + unlisted * rest_B.double()
    mass = torch.where(mass > 0, mass, 1.0)
    return build(classes_BM, probs_BM.double() / mass[:, None], rest_B.double() / mass, num_classes)


def rank(labels: SparseLabels) -> SparseLabels:
    """The rows by descending weight, equal ones by place, empty places last."""
    order = labels.probs.masked_fill(labels.classes < 0, -1).argsort(dim=1, descending=True, stable=True)
    return SparseLabels(labels.classes.gather(1, order), labels.probs.gather(1, order), labels.rest, labels.num_classes)


def unlisted_class(labels: SparseLabels, number_B: Tensor) -> Tensor:
    """The class number n (from 0, by ascending id) of those that each row does not list, int64 [B]."""
    ids = labels.classes.to(torch.int64)
    ids = ids.masked_fill(ids < 0, labels.num_classes + labels.width).sort(dim=1).values
    unlisted_below = ids - torch.arange(labels.width, device=labels.device)
    return number_B + torch.searchsorted(unlisted_below, number_B[:, None], right=True)[:, 0]


def far_class(labels: SparseLabels, classes_B: Tensor) -> Tensor:
    """The first class that each row does not list, counting up and round from c + C // 2."""
    start = (classes_B.to(torch.int64) + labels.num_classes // 2) % labels.num_classes
    listed_below = ((labels.classes >= 0) & (labels.classes < start[:, None])).sum(1)
    return unlisted_class(labels, (start - listed_below) % labels.unlisted().clamp(min=1))


def union(classes: Sequence[Tensor], num_classes: int) -> Tensor:
    """Every class of the rows once, in the order given, then -1: int32 [B, sum of M].

    Where that sum is C or more, simply all classes: int32 [B, C].
    """
    everything = torch.cat(list(classes), dim=1)
    if everything.shape[1] >= num_classes:
        return torch.arange(num_classes, dtype=torch.int32, device=everything.device).repeat(len(everything), 1)
    ids, order = everything.sort(dim=1, stable=True)
    again = torch.zeros_like(ids, dtype=torch.bool)
    again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    return torch.empty_like(ids).scatter_(1, order, ids.masked_fill(again, -1))


def values_in(union_BW: Tensor, classes_BM: Tensor, values_BM: Tensor, rest_B: Tensor, num_classes: int) -> Tensor:
    """The values [B, W] of one of the labels for the classes of their union."""
    if union_BW.shape[1] == num_classes:
        return spread(classes_BM, values_BM, rest_B, num_classes)
    return look_up(classes_BM, values_BM, rest_B, union_BW)
