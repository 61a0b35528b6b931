"""Labels without what the teacher knows about classes beyond the first, but as uncertain as before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.labels.ops.checks import check_integer, check_sparse
from fastlabel.labels.ops.measure import entropy, top1
from fastlabel.labels.ops.permutation import random_injection
from fastlabel.labels.ops.support import build, rank
from fastlabel.labels.sparse import SparseLabels

_BISECTIONS = 64
_LOWEST_LOG = -120.0  # exp of it is below the smallest float32


def smoothed_like(labels: SparseLabels) -> SparseLabels:
    """Label smoothing of the same entropy: each row's top class has weight 1 - t, all others t / (C - 1); M = 1.

    t is solved per row in float64, so that the entropy agrees up to the rounding of float32 weights. The mass is kept.
    """
    top, mass, others = top1(labels), labels.mass(), labels.num_classes - 1
    t = torch.where(mass > 0, _smoothing_of_entropy(entropy(labels), labels.num_classes), 0.0)
    return build(top[:, None], ((1 - t) * mass)[:, None], t * mass / max(1, others), labels.num_classes)


def shuffle_rest(labels: SparseLabels, ids: Tensor | NDArray[np.int64] | Sequence[int], seed: int = 0) -> SparseLabels:
    """The weights of the listed classes beyond the first given to random classes other than the top one.

    The m-th most likely class (m = 1, 2, ...) gives its weight to class x + (x >= top), where x is number m - 1 of
    `random_injection(seed, id, ..., C - 1)`: all classes but the top one, unlisted ones included, are equally likely,
    and no two get the same. A permutation of all other classes where a row lists all. The top class, the sorted
    weights and so the entropy stay. A row is a function of (seed, its id, the row): not of the batch.

    Args:
        ids: one non-negative integer for each row, such as sample ids.
        seed: 0 to 2^64 - 1.
    """
    check_sparse(labels)
    check_integer("seed", seed, 0, (1 << 64) - 1)
    ranked = rank(labels)
    top, others = ranked.classes[:, :1], ranked.classes[:, 1:]
    numbers = random_injection(seed, _ids(ids, len(labels)), labels.width - 1, labels.num_classes - 1, labels.device)
    classes = torch.where(others >= 0, numbers + (numbers >= top), -1)
    return build(torch.cat([top, classes], dim=1), ranked.probs, labels.rest, labels.num_classes)


def _smoothing_of_entropy(entropy_B: Tensor, num_classes: int) -> Tensor:
    """t in [0, 1 - 1 / C] for which weights 1 - t and C - 1 times t / (C - 1) have an entropy (nats)."""
    if num_classes == 1:
        return torch.zeros_like(entropy_B)
    low = torch.full_like(entropy_B, _LOWEST_LOG)
    high = torch.full_like(entropy_B, math.log1p(-1 / num_classes))
    for _ in range(_BISECTIONS):
        log_t = (low + high) / 2
        t = log_t.exp()
        reached = -(1 - t) * torch.log1p(-t) - t * (log_t - math.log(num_classes - 1)) >= entropy_B
        low, high = torch.where(reached, low, log_t), torch.where(reached, log_t, high)
    return torch.where(entropy_B > 0, high.exp(), 0.0)


def _ids(ids: Tensor | NDArray[np.int64] | Sequence[int], count: int) -> NDArray[np.int64]:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.shape != (count,) or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise InputError(f"ids are {array.dtype} {array.shape}, expected {count} non-negative integers")
    return array.astype(np.int64)
