"""The beginning of a random permutation for each id, without a table of the whole one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.kernels.view_boxes import random_keys
from fastlabel.sampling import STREAM_SHUFFLE


def random_injection(seed: int, ids: NDArray[np.int64], count: int, size: int, device: torch.device) -> Tensor:
    """For each id, `count` distinct numbers below `size` (count <= size), int64 [B, count].

    The first `count` entries of a Fisher-Yates shuffle of 0 ... size - 1, which at step j exchanges entries j and
    j + floor(u (size - j) / 2^32); u is the upper half of the random key (seed, STREAM_SHUFFLE, j, id). So a row is
    a function of (seed, id, size) alone, and a smaller count gives a prefix. O(B count log count) time.
    """
    draws = torch.from_numpy(_draws(seed, ids, count, size)).to(device)
    slots = draws if count == size else _slots(draws)
    # Only entries below count and drawn ones ever move: row j holds entry j, row count + j entry draws[j].
    entries = torch.cat([torch.arange(count, device=device)[:, None].expand_as(draws), draws])
    moved = torch.empty_like(draws)
    for j in range(count):
        slot = slots[j : j + 1]
        moved[j] = entries.gather(0, slot)[0]
        entries.scatter_(0, slot, entries[j : j + 1].clone())
    return moved.T.contiguous()


def _draws(seed: int, ids: NDArray[np.int64], count: int, size: int) -> NDArray[np.int64]:
    """Entry that step j exchanges with entry j: int64 [count, B]."""
    draws = np.empty((count, len(ids)), np.int64)
    for j in range(count):
        words = random_keys(seed, STREAM_SHUFFLE, j, ids) >> np.uint64(32)
        draws[j] = j + (words * np.uint64(size - j) >> np.uint64(32)).astype(np.int64)
    return draws


def _slots(draws: Tensor) -> Tensor:
    """Where each drawn entry is kept: its own row below count, else that of the first step which drew it."""
    count = len(draws)
    drawn, order = draws.sort(dim=0, stable=True)
    steps = torch.arange(count, device=draws.device)[:, None].expand_as(draws)
    starts = torch.ones_like(drawn, dtype=torch.bool)
    starts[1:] = drawn[1:] != drawn[:-1]
    first = order.gather(0, steps.masked_fill(~starts, 0).cummax(dim=0).values) if count else order
    first_step = torch.empty_like(order).scatter_(0, order, first)
    return torch.where(draws < count, draws, count + first_step)
