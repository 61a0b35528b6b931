"""Edits of single classes: truncate, exchange, remove, replace."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.labels.ops.checks import check_integer, check_rank, check_sparse
from fastlabel.labels.ops.support import build, far_class, over_mass, rank
from fastlabel.labels.sparse import SparseLabels, check_targets


def renormalise(labels: SparseLabels) -> SparseLabels:
    """Rows divided by their mass, so that they sum to 1; a row without mass stays all zero."""
    check_sparse(labels)
    return over_mass(labels.classes, labels.probs, labels.rest, labels.num_classes)


def keep_top(labels: SparseLabels, j: int, rest: Literal["zero", "renormalise", "tail"] = "zero") -> SparseLabels:
    """The j most likely listed classes of each row; M becomes j.

    What the other C - j classes had is dropped (`rest="zero"`, the paper's scaling law), dropped and the row made to
    sum to 1 ("renormalise"), or spread over them evenly ("tail"; this conserves the mass).

    Raises InputError when j is more than the labels list: which classes come next is not known.
    """
    check_rank(labels, "j", j, 1)
    if rest not in ("zero", "renormalise", "tail"):
        raise InputError(f"rest is {rest!r}, expected 'zero', 'renormalise' or 'tail'")
    ranked = rank(labels)
    classes, probs, nothing = ranked.classes[:, :j], ranked.probs[:, :j], torch.zeros_like(labels.rest)
    if rest == "zero":
        return build(classes, probs, nothing, labels.num_classes)
    if rest == "renormalise":
        return over_mass(classes, probs, nothing, labels.num_classes)
    others = ranked.probs[:, j:].double().sum(1) + labels.unlisted() * labels.rest.double()
    count = labels.num_classes - (classes >= 0).sum(1)
    return build(classes, probs, others / count.clamp(min=1), labels.num_classes)


def swap(labels: SparseLabels, i: int) -> SparseLabels:
    """The i-th most likely class (0 is the top one) exchanges its weight with the least likely one.

    Exact where a row lists all classes. In other rows the classes that are not listed are equally likely: taken is
    the first of them counting up, and round, from c + C // 2, with c the i-th class, so that the weight does not gather
    on one class. A row that lists i classes or fewer stays as it is.

    Raises InputError when i is not below M: which classes come there is not known.
    """
    check_rank(labels, "i", i, 0)
    ranked = rank(labels)
    classes, probs = ranked.classes.clone(), ranked.probs.clone()
    listed, unlisted = ranked.classes[:, i], labels.unlisted()
    if labels.width < labels.num_classes or bool(unlisted.any()):
        classes[:, i] = torch.where((listed >= 0) & (unlisted > 0), far_class(labels, listed), listed)
    if labels.width == labels.num_classes:
        full = unlisted == 0
        probs[:, i] = torch.where(full, ranked.probs[:, -1], probs[:, i])
        probs[:, -1] = torch.where(full, ranked.probs[:, i], probs[:, -1])
    return build(classes, probs, labels.rest, labels.num_classes)


def remove_class(labels: SparseLabels, c: int, renormalise: bool = True) -> SparseLabels:
    """Weight 0 for class c in every row; the others then sum to 1, or keep their weights with renormalise=False.

    A row that had nothing but class c becomes all zero, also when renormalised: its loss is 0. M may grow by 1.
    Raises InputError unless 0 <= c < C.
    """
    check_sparse(labels)
    check_integer("c", c, 0, labels.num_classes - 1)
    classes, probs = labels.classes.clone(), labels.probs.masked_fill(labels.classes == c, 0)
    if labels.width < labels.num_classes:
        classes, probs = F.pad(classes, (0, 1), value=-1), F.pad(probs, (0, 1))
    # A row that does not list c has an empty place, to list it with weight 0.
    place = torch.where((classes == c).any(1), (classes == c).int().argmax(1), (classes < 0).int().argmax(1))
    classes.scatter_(1, place[:, None], c)
    return (over_mass if renormalise else build)(classes, probs, labels.rest, labels.num_classes)


def replace_by_hard(labels: SparseLabels, targets: Tensor, mask: Tensor | None = None) -> SparseLabels:
    """All weight on the target class (integers [B]) in each row, or in the rows where `mask` (bool [B]) is true."""
    check_sparse(labels)
    check_targets("targets", targets, labels.num_classes)
    if mask is None:
        mask = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    for name, tensor in (("targets", targets), ("mask", mask)):
        if tensor.shape != labels.rest.shape or tensor.device != labels.device:
            raise InputError(
                f"{name} are {tuple(tensor.shape)} on {tensor.device}, expected {(len(labels),)} on {labels.device}"
            )
    if mask.dtype != torch.bool:
        raise InputError(f"mask has dtype {mask.dtype}, expected torch.bool")
    classes = torch.full_like(labels.classes, -1)
    classes[:, 0] = targets
    probs = torch.zeros_like(labels.probs)
    probs[:, 0] = 1
    return build(
        torch.where(mask[:, None], classes, labels.classes),
        torch.where(mask[:, None], probs, labels.probs),
        labels.rest.masked_fill(mask, 0),
        labels.num_classes,
    )
