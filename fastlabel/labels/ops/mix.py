"""Mixtures of labels of the same rows: two with a weight, or an ensemble before or after the softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.decode_topk.reference import _tail_log_weight
from fastlabel.kernels.label_format import CODES_PER_NAT, ZERO_CODE, ZERO_MASS, widen
from fastlabel.labels.ops.checks import check_sparse, check_together, check_topk, shares
from fastlabel.labels.ops.support import build, over_mass, union, values_in
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels, check_temperature
from fastlabel.labels.transform import TransformLabels


def mix(a: SparseLabels, b: SparseLabels, weight: float | Tensor) -> SparseLabels:
    """weight * a + (1 - weight) * b over the union of their classes, exact up to float32; O(B M log M).

    M becomes Ma + Mb, at most C. `weight` is a number from 0 to 1, or such numbers [B] (Mixup, CutMix), whose values
    are not read.
    """
    check_sparse(a)
    check_sparse(b)
    check_together([a, b])
    if isinstance(weight, Tensor) and weight.ndim:
        if weight.shape != a.rest.shape or weight.device != a.device or not weight.is_floating_point():
            raise InputError(
                f"weight is {weight.dtype} {tuple(weight.shape)} on {weight.device}, "
                f"expected a number or floating point {(len(a),)} on {a.device}"
            )
        share = weight.double()
    else:
        if not 0 <= float(weight) <= 1:
            raise InputError(f"weight is {float(weight)}, expected 0 to 1")
        share = torch.full_like(a.rest, float(weight), dtype=torch.float64)
    return _blend([a, b], [share, 1 - share])


def average(labels: Sequence[SparseLabels], weights: Sequence[float] | None = None) -> SparseLabels:
    """The mean of several labels of the same rows: an ensemble after the softmax. `weights` need not sum to 1."""
    for label in labels:
        check_sparse(label)
    check_together(labels)
    parts = shares(weights, len(labels))
    return _blend(labels, [torch.full_like(labels[0].rest, part, dtype=torch.float64) for part in parts])


def average_logits(
    labels: Sequence[TopKLabels], temperature: float = 1.0, weights: Sequence[float] | None = None
) -> SparseLabels:
    """softmax of the mean of several teachers' logits / temperature: the normalised geometric mean of their labels.

    Exact at K = C, up to the step of the codes: a label is its logits up to a constant, which the softmax drops. Below,
    a class that a teacher did not keep enters with the log-weight of one class of that teacher's tail. A class to
    which a teacher of positive weight gives probability 0 gets 0; a row where that happens to all is all zero.
    """
    check_temperature("temperature", temperature)
    for label in labels:
        check_topk(label)
    check_together(labels)
    if any(isinstance(label, TransformLabels) for label in labels):
        return _average_of_all(labels, temperature, shares(weights, len(labels)))
    pairs = zip(labels, shares(weights, len(labels)), strict=True)
    # Without teachers of weight 0: 0 times minus infinity would be NaN.
    parts = [(share, *_log_weights(label, temperature)) for label, share in pairs if share]
    num_classes = labels[0].num_classes
    classes = union([part[1] for part in parts], num_classes)
    logs = torch.zeros_like(classes, dtype=torch.float64)
    rest = torch.zeros_like(logs[:, 0])
    for share, listed, log_weights, log_rest in parts:
        logs += share * values_in(classes, listed, log_weights, log_rest, num_classes)
        rest += share * log_rest
    logs.masked_fill_(classes < 0, -torch.inf)
    highest = torch.maximum(logs.amax(1), rest).nan_to_num(neginf=0.0)
    return over_mass(classes, (logs - highest[:, None]).exp(), (rest - highest).exp(), num_classes)


def _average_of_all(labels: Sequence[TopKLabels], temperature: float, weights: Sequence[float]) -> SparseLabels:
    """The average of logits where each label says all of them."""
    logs = torch.zeros(len(labels[0]), labels[0].num_classes, dtype=torch.float64, device=labels[0].device)
    for label, share in zip(labels, weights, strict=True):
        if not isinstance(label, TransformLabels):
            raise InputError(
                "some labels have a transform and others the top K alone: average their probabilities "
                "(label_ops.average), or take labels.head of the former"
            )
        if share:
            logs += share * label.logits(torch.float64)
    return SparseLabels.from_dense(torch.softmax(logs / temperature, 1).nan_to_num(nan=0.0).float())


def _blend(labels: Sequence[SparseLabels], weights: Sequence[Tensor]) -> SparseLabels:
    """The sum of labels times weights (float64 [B])."""
    num_classes = labels[0].num_classes
    classes = union([label.classes for label in labels], num_classes)
    probs = torch.zeros_like(classes, dtype=torch.float64)
    rest = torch.zeros_like(probs[:, 0])
    for label, weight in zip(labels, weights, strict=True):
        probs += weight[:, None] * values_in(classes, label.classes, label.probs, label.rest, num_classes)
        rest += weight * label.rest
    return build(classes, probs, rest, num_classes)


def _log_weights(labels: TopKLabels, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Classes, their log-weights relative to the top class, and that of one class of the tail, at a temperature."""
    # Not the logarithms of probabilities: those of confident labels underflow in float32.
    gaps = (labels.codes.double() / CODES_PER_NAT).masked_fill(labels.codes == ZERO_CODE, torch.inf)
    log_rest = torch.full_like(gaps[:, 0], -torch.inf)
    unlisted = labels.num_classes - labels.k
    if unlisted:
        lam = _tail_log_weight(gaps, labels.tail, unlisted, temperature)
        log_rest = torch.where(widen(labels.tail)[:, 0] == ZERO_MASS, log_rest, lam)
    return widen(labels.classes).to(torch.int32), gaps / -temperature, log_rest
