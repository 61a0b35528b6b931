"""The checks that the operations share, and how they read the weights of an ensemble."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from fastlabel.errors import InputError
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels


def check_sparse(labels: object) -> None:
    """Raise InputError unless these are SparseLabels."""
    if isinstance(labels, TopKLabels):
        raise InputError("labels are TopKLabels, still logits; call labels.sparse(temperature) first, then edit")
    if not isinstance(labels, SparseLabels):
        raise InputError(f"labels are {type(labels).__name__}, expected SparseLabels")


def check_topk(labels: object) -> None:
    """Raise InputError unless these are TopKLabels, which hold logits up to a constant."""
    if not isinstance(labels, TopKLabels):
        raise InputError(
            f"labels are {type(labels).__name__}, expected TopKLabels: logits are averaged before any edit"
        )


def check_together(labels: Sequence[SparseLabels] | Sequence[TopKLabels]) -> None:
    """Raise InputError unless there are labels, for the same number of rows and classes, on one device."""
    if not labels:
        raise InputError("there are no labels to average")
    first = labels[0]
    for other in labels:
        if (len(other), other.num_classes, other.device) != (len(first), first.num_classes, first.device):
            raise InputError(
                f"labels are {len(other)} rows of {other.num_classes} classes on {other.device}, others {len(first)} "
                f"of {first.num_classes} on {first.device}; expected the same rows"
            )


def check_integer(name: str, value: int, low: int, high: int) -> None:
    """Raise InputError unless the value is an integer from low to high."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}, expected an integer") from None
    if not low <= number <= high:
        raise InputError(f"{name} is {number}, expected {low} to {high}")


def check_rank(labels: SparseLabels, name: str, value: int, first: int) -> None:
    """Raise InputError unless the value is a rank, counted from `first`, of a class that the labels list."""
    check_sparse(labels)
    check_integer(name, value, first, labels.num_classes - 1 + first)
    last = labels.width - 1 + first
    if value > last:
        raise InputError(
            f"{name} is {value}, but these labels list {labels.width} of {labels.num_classes} classes and the order of "
            f"the others is not known; give at most {last}"
        )


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights divided by their sum; equal ones where none are given."""
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < math.inf for weight in given) or not sum(given):
        raise InputError(f"weights are {given}, expected {count} numbers of 0 or more, not all 0")
    return [weight / sum(given) for weight in given]
