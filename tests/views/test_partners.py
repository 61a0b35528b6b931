"""Pairs, lambdas and boxes of mixed views: pure, symmetric, and as even as with a free permutation."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.errors import InputError
from fastlabel.kernels.view_boxes.reference import draw
from fastlabel.views import Mixing, Partners, ViewPolicy, segment_order
from fastlabel.views.mixing import beta_lambdas_q16
from fastlabel.views.partners import STREAM_CENTRE, STREAM_DRAW

BOTH = Mixing.of(cutmix=0.4, mixup=0.4, mixup_alpha=0.8, block=8)


def mixed(mixing: Mixing = BOTH, size: int = 32, seed: int = 0) -> ViewPolicy:
    return replace(ViewPolicy.random_resized_crop(size, seed), mixing=mixing)


def partners_of(count: int, policy: ViewPolicy, start: int = 0) -> Partners:
    return Partners(policy, [segment_order(policy, np.arange(start, start + count))], start + count)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.sampled_from([2, 4, 8, 64]))
def test_pairs_are_an_involution_within_blocks(count: int, view: int, seed: int, block: int) -> None:
    partners = partners_of(count, mixed(replace(BOTH, block=block), seed=seed))
    met, ids = partners.of_view(view).astype(np.int64), np.arange(count)
    np.testing.assert_array_equal(met[met], ids)
    np.testing.assert_array_equal(partners.blocks[met], partners.blocks)
    odd = sum(min(block, count - start) % 2 for start in range(0, count, block))
    assert (met == ids).sum() == odd
    table = partners.table(view, ids)
    np.testing.assert_array_equal(table[met, 1:], table[:, 1:])
    some = ids[::3]
    np.testing.assert_array_equal(partners.table(view, some), table[some])


def test_they_are_sent_to_another_process() -> None:
    partners = partners_of(10, mixed())
    table = partners.table(2, np.arange(10))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(partners)).table(2, np.arange(10)), table)


def test_what_comes_later_changes_no_pair() -> None:
    policy, first, second = mixed(), np.arange(0, 60, 2), np.arange(1, 61, 2)
    segments = [segment_order(policy, ids) for ids in (first, second)]
    before, after = Partners(policy, segments[:1], 61), Partners(policy, segments, 61)
    for view in range(5):
        np.testing.assert_array_equal(before.table(view, first), after.table(view, first))
        assert not np.intersect1d(after.of_view(view)[second], first).size


def test_draws_in_python_integers() -> None:
    """The box as CutMix's own code cuts it, and lambda, from the words of the generator."""
    policy = mixed(size=37, seed=5)
    partners, ids = partners_of(64, policy), np.arange(64)
    kinds: Counter[str] = Counter()
    for view in (0, 7):
        for sample, row in zip(ids.tolist(), partners.table(view, ids).tolist(), strict=True):
            partner, weight, top, left, bottom, right = row
            key = min(sample, partner)
            high, low, _, _ = draw(policy.seed, view, key, 0, STREAM_DRAW)
            cy, cx = (word * 37 >> 32 for word in draw(policy.seed, view, key, 0, STREAM_CENTRE)[:2])
            which, at = high >> 16, low & 255
            if which < BOTH.cutmix_q16:
                side = isqrt((65536 - BOTH.cutmix_lambdas_q16[at]) * 37 * 37 >> 16)
                box = [max(cy - side // 2, 0), max(cx - side // 2, 0), min(cy + side // 2, 37), min(cx + side // 2, 37)]
                assert row[1:] == [0, *box]
                kinds["cutmix"] += 1
            elif which < BOTH.cutmix_q16 + BOTH.mixup_q16:
                assert (weight, top, left, bottom, right) == (BOTH.mixup_lambdas_q16[at], 0, 0, 37, 37)
                kinds["mixup"] += 1
            else:
                assert top == bottom == left == right == 0
                kinds["whole"] += 1
    assert all(kinds[kind] > 5 for kind in ("cutmix", "mixup", "whole"))


def test_a_block_that_shares_has_one_draw() -> None:
    partners = partners_of(64, mixed(replace(BOTH, shared=True)))
    table = partners.table(3, np.arange(64))
    for block in range(8):
        assert len(np.unique(table[partners.blocks == block, 1:], axis=0)) == 1
    assert len(np.unique(table[:, 1:], axis=0)) > 4


def test_shares_follow_their_probabilities() -> None:
    table = partners_of(20_000, mixed()).table(0, np.arange(20_000))
    cut, blend = (table[:, 1] == 0).mean(), (table[:, 4] == 32).mean()
    assert abs(cut - 0.4) < 0.02 and blend > 0.38
    # Beta(1, 1): a box takes 1 - lambda of the crop before it is cut off.
    side = np.array([math.sqrt(1 - lam / 65536) for lam in BOTH.cutmix_lambdas_q16])
    assert abs((side**2).mean() - 0.5) < 1e-3


def test_classes_meet_as_evenly_as_under_a_free_permutation() -> None:
    """1,000 samples in each of 10 classes, in the order of the file; 40 views. Chi-square of class against class."""
    targets = np.repeat(np.arange(10), 1000)
    partners = partners_of(10_000, mixed(replace(BOTH, block=64)))
    rng = np.random.default_rng(0)

    def chi_square(met: np.ndarray) -> float:
        counts = np.zeros((10, 10))
        np.add.at(counts, (targets, targets[met]), 1)
        return float((((counts - 100) ** 2) / 100).sum())

    ours = [chi_square(partners.of_view(view)) for view in range(40)]
    free = [chi_square(rng.permutation(10_000)) for _ in range(40)]
    # Pairs count twice, in both directions: their deviations are sqrt(2) times as large.
    assert np.mean(ours) < 2.6 * np.mean(free)
    together = sum(np.bincount(targets[partners.of_view(view)[targets == 0]], minlength=10) for view in range(40))
    assert np.abs(together / 40_000 - 0.1).max() < 0.01


def test_a_sample_meets_its_whole_block() -> None:
    partners = partners_of(64, mixed(replace(BOTH, block=16)))
    met = {int(partners.of_view(view)[5]) for view in range(200)}
    assert met == set(np.flatnonzero(partners.blocks == partners.blocks[5])) - {5}


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_lambdas_have_the_moments_of_beta(alpha: float) -> None:
    values = np.array(beta_lambdas_q16("alpha", alpha)) / 65536
    assert (np.diff(values) >= 0).all() and abs(values.mean() - 0.5) < 1e-6
    assert abs(values.var() - 1 / (4 * (2 * alpha + 1))) < 2e-3


def test_policies_are_kept_and_read_again() -> None:
    policy = mixed()
    assert ViewPolicy.from_dict(policy.to_dict()) == policy
    assert "mixing" not in ViewPolicy.center(32).to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutmix": 1.5}, r"probability of cutmix is 1.5, expected a number from 0 to 1"),
        ({"mixup": math.nan}, r"probability of mixup is nan"),
        ({}, r"probabilities of CutMix and MixUp are 0 and 0: together above 0"),
        ({"cutmix": 0.7, "mixup": 0.7}, r"together above 0 and at most 1"),
        ({"cutmix": 1.0, "cutmix_alpha": 0}, r"cutmix_alpha is 0, expected a number from 0.01 to 100"),
        ({"mixup": 1.0, "mixup_alpha": "1"}, r"mixup_alpha is '1'"),
        ({"cutmix": 1.0, "mixup_alpha": 1.0}, r"mixup_alpha is given, and the probability of mixup is 0"),
        ({"cutmix": 1.0, "block": 7}, r"mix block 7 is odd"),
        ({"cutmix": 1.0, "block": 0}, r"mix block"),
        ({"cutmix": 1.0, "shared": 1}, r"shared"),
    ],
)
def test_bad_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixing.of(**options)  # type: ignore[arg-type]


def test_a_forged_policy_is_refused() -> None:
    good = mixed().to_dict()
    for change in ({"cutmix_q16": 70_000}, {"mixup_lambdas_q16": [1]}, {"block": 3}, {"extra": 1}):
        with pytest.raises(InputError):
            ViewPolicy.from_dict(good | {"mixing": good["mixing"] | change})
    with pytest.raises(InputError, match="mixing"):
        ViewPolicy.from_dict(good | {"mixing": [1]})
