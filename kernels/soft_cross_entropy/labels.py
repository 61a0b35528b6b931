"""The target of a batch as the loss takes it, and the same in torch operations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastlabel.kernels.decode_topk import topk_probabilities
from fastlabel.kernels.label_format import take_rows, widen


class Labels(NamedTuple):
    """One label for each row of a batch, in either of two forms, as is or as rows of a plane.

    Attributes:
        classes: coded: uint16 or uint32 [P, K] as `encode_topk` returns them; weighted: int32 [P, K], -1 is an
            empty place, a class at most once in a row (the result for a label that lists one twice is undefined).
        weights: coded: codes, uint8 [P, K]; weighted: float32 [P, K], 0 at empty places.
        rest: coded: tail, uint16 [P, 2]; weighted: float32 [P], the weight of each class that is not listed.
        rows: int64 [B], the label of each row of the batch; None where P = B and they are in order.
    """

    classes: Tensor
    weights: Tensor
    rest: Tensor
    rows: Tensor | None = None

    @property
    def coded(self) -> bool:
        return self.weights.dtype == torch.uint8


class Target(NamedTuple):
    """What a student is to match: (1 - hard_weight) * (mix * labels + (1 - mix) * second) + hard_weight * hard.

    Attributes:
        labels: the soft labels.
        temperature: divides the logits of coded labels; weighted ones are as they are.
        second, mix: the second label of each row, of the same form, and the share of the first, floating [B]; or
            neither.
        hard, hard_weight: a class for each row, int64 [B], and its share, floating [B]; or neither.
    """

    labels: Labels
    temperature: float = 1.0
    second: Labels | None = None
    mix: Tensor | None = None
    hard: Tensor | None = None
    hard_weight: Tensor | None = None

    @property
    def listed(self) -> int:
        """Classes that the parts list in each row, empty places included."""
        second = 0 if self.second is None else self.second.classes.shape[1]
        return self.labels.classes.shape[1] + second + (self.hard is not None)


class Part(NamedTuple):
    """A part of the targets: a share of each row [B] that goes to listed classes [B, K] and to each other class [B].

    Empty places are class 0 with a `listed` of False and a weight of 0.
    """

    share: Tensor
    classes: Tensor
    listed: Tensor
    weights: Tensor
    rest: Tensor


def target_parts(target: Target, num_classes: int, dtype: torch.dtype) -> list[Part]:
    """The target of each row as a sum of parts, in torch operations; weights and shares have the given dtype.

    Where a row of a plane, a class id or a target is out of range, weights are NaN.
    """
    classes, listed, weights, rest = _decode(target.labels, num_classes, target.temperature, dtype)
    soft = torch.ones_like(rest) if target.hard_weight is None else 1 - target.hard_weight.to(dtype)
    parts = [Part(soft if target.mix is None else soft * target.mix.to(dtype), classes, listed, weights, rest)]
    if target.second is not None and target.mix is not None:
        second = _decode(target.second, num_classes, target.temperature, dtype)
        parts.append(Part(soft * (1 - target.mix.to(dtype)), *second))
    if target.hard is not None and target.hard_weight is not None:
        hard = target.hard[:, None]
        inside = (hard >= 0) & (hard < num_classes)
        weights = torch.where(inside, 1.0, torch.nan).to(dtype)
        parts.append(
            Part(target.hard_weight.to(dtype), torch.where(inside, hard, 0), inside, weights, torch.zeros_like(rest))
        )
    return parts


def _decode(
    labels: Labels, num_classes: int, temperature: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class ids int64 [B, K], which places hold one, their weights [B, K], and the rest [B]; NaN for bad labels."""
    classes, weights, rest = labels[:3]
    bad = torch.zeros(len(classes), dtype=torch.bool, device=classes.device)
    if labels.rows is not None:
        bad = (labels.rows < 0) | (labels.rows >= len(classes))
        index = labels.rows.masked_fill(bad, 0)
        classes, weights, rest = (take_rows(tensor, index) for tensor in (classes, weights, rest))
    classes = widen(classes).to(torch.int64)
    if labels.coded:
        weights, rest = topk_probabilities(weights, rest, num_classes, temperature)
    bad = bad | ((classes >= num_classes) | (classes < -1)).any(1)
    listed = (classes >= 0) & (classes < num_classes)
    weights = torch.where(listed, weights, 0).to(dtype)
    return torch.where(listed, classes, 0), listed, weights, torch.where(bad, torch.nan, rest.to(dtype))
