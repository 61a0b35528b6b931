"""Which crop gets which pixel operation: pure, by the probabilities, within bounds; and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastlabel.errors import InputError
from fastlabel.kernels.pixel_operations.reference import ONE
from fastlabel.views import PixelOperations, ViewPolicy

ALL = PixelOperations.of(
    gray=0.2, solarise=0.2, blur=0.3, brightness=0.3, contrast=0.2, saturation=0.1, patches=3, erase=0.5
)


def test_a_sample_has_its_own_row_whatever_else_is_asked_for() -> None:
    table = ALL.table(5, 2, np.arange(500), 36)
    np.testing.assert_array_equal(ALL.table(5, 2, np.array([7, 400, 3]), 36), table[[7, 400, 3]])
    assert (ALL.table(5, 3, np.arange(500), 36) != table).any() and (ALL.table(6, 2, np.arange(500), 36) != table).any()


def test_probabilities_and_bounds() -> None:
    table = ALL.table(0, 0, np.arange(20_000), 36)
    shares = np.bincount(table[:, 0], minlength=4) / len(table)
    assert np.abs(shares - [0.3, 0.2, 0.2, 0.3]).max() < 0.02
    assert set(table[table[:, 0] == 3, 1]) == set(range(16)) and not table[table[:, 0] != 3, 1].any()
    for column, strength in ((2, 0.3), (3, 0.2), (4, 0.1)):
        factors = table[:, column] / ONE
        assert 1 - strength - 1e-4 <= factors.min() < 1 - 0.95 * strength
        assert 1 + 0.95 * strength < factors.max() <= 1 + strength + 1e-4
    top, left, bottom, right = table[:, 5:9].T
    hit = bottom > top
    assert abs(hit.mean() - 0.5) < 0.02 and (right > left)[hit].all() and not table[~hit, 5:9].any()
    assert min(top.min(), left.min()) == 0 and max(bottom.max(), right.max()) == 36
    area = ((bottom - top) * (right - left))[hit] / 36**2
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.02
    np.testing.assert_array_equal(np.sort(table[:, 9:], axis=1), np.broadcast_to(np.arange(9), (20_000, 9)))
    assert np.abs(np.bincount(table[:, 9], minlength=9) / 20_000 - 1 / 9).max() < 0.01


def test_what_is_kept_gives_the_same() -> None:
    policy = replace(ViewPolicy.random_resized_crop(36), pixels=ALL)
    again = ViewPolicy.from_dict(policy.to_dict())
    assert again == policy and again.pixels is not None
    np.testing.assert_array_equal(again.pixels.kernels(), ALL.kernels())
    assert (ALL.kernels()[:, 0] + 2 * ALL.kernels()[:, 1:].sum(1) == ONE).all()


@pytest.mark.parametrize(
    "change",
    [{"gray_q16": -1}, {"blurs_q16": [1]}, {"blurs_q16": [1] * 112}, {"fill": [0, 0, 300]}, {"extra": 1}],
)
def test_forged_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PixelOperations.from_dict(ALL.to_dict() | change)
