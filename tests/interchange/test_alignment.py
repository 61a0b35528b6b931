"""Whether labels fit their samples is found by their classes."""

from __future__ import annotations

import numpy as np
import pytest

from fastlabel.errors import DatasetError
from fastlabel.interchange.alignment import Alignment


def batches(count: int, size: int, right: float, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(top class, targets) of batches whose labels are right so often."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        targets = random.integers(0, 10, size)
        top = np.where(random.random(size) < right, targets, random.integers(0, 10, size))
        found.append((top, targets[:, None]))
    return found


def checked(given: list[tuple[np.ndarray, np.ndarray]]) -> Alignment:
    alignment = Alignment()
    for number, (top, targets) in enumerate(given):
        alignment.add(f"batch_{number}", top, targets)
    alignment.check()
    return alignment


def test_labels_of_a_weak_teacher_pass() -> None:
    assert 0.2 < checked(batches(8, 64, right=0.3)).agreement < 0.6


def test_labels_of_other_samples_are_refused() -> None:
    with pytest.raises(DatasetError, match="by chance it would be"):
        checked(batches(8, 64, right=0.0))


def test_two_batches_that_were_swapped_are_refused() -> None:
    given = batches(8, 64, right=0.8)
    given[2], given[5] = (given[5][0], given[2][1]), (given[2][0], given[5][1])
    with pytest.raises(DatasetError, match="batch_2"):
        checked(given)
