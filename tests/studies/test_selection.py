"""Deciles of a class's losses, and images chosen by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlabel.errors import InputError
from fastlabel.sampling import images_per_class
from fastlabel.studies.selection import DECILES, STRATEGIES, choose, decile_of

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=80)


def made(per_class=40, classes=3, seed=0):
    """Targets in random order, and losses that often tie."""
    random = np.random.default_rng(seed)
    targets = random.permutation(np.repeat(np.arange(classes), per_class))
    return random.integers(0, 30, len(targets)) / 8, targets


@given(SAMPLES)
def test_deciles_rank_the_samples_of_each_class(samples):
    targets, losses = (np.array(column) for column in zip(*samples, strict=True))
    deciles = decile_of(losses / 8, targets)
    for c in set(targets):
        members = np.flatnonzero(targets == c)
        ranked = sorted(members, key=lambda i: (losses[i], i))
        assert [deciles[i] for i in ranked] == [10 * rank // len(ranked) for rank in range(len(ranked))]


@given(SAMPLES)
def test_a_class_is_ranked_alone(samples):
    targets, losses = (np.array(column) for column in zip(*samples, strict=True))
    for c in set(targets):
        alone = decile_of(losses[targets == c], targets[targets == c])
        assert np.array_equal(decile_of(losses, targets)[targets == c], alone)


def test_deciles_are_of_equal_size():
    losses, targets = made(per_class=37)
    deciles = decile_of(losses, targets)
    for c in range(3):
        assert set(np.bincount(deciles[targets == c], minlength=10)) == {3, 4}


@given(st.sampled_from(STRATEGIES), st.integers(1, 4), st.integers(0, 5))
def test_every_class_gets_its_images_and_of_its_decile(strategy, ipc, seed):
    losses, targets = made()
    deciles = decile_of(losses, targets)
    ids = choose(strategy, ipc, seed, targets, deciles, 3)
    assert np.array_equal(ids, np.unique(ids))
    assert np.bincount(targets[ids], minlength=3).tolist() == [ipc] * 3
    if strategy in DECILES:
        assert set(deciles[ids]) == {int(strategy)}
    assert np.array_equal(ids, choose(strategy, ipc, seed, targets, deciles, 3))


@given(st.integers(1, 40))
def test_stratified_images_are_spread_evenly(ipc):
    losses, targets = made()
    deciles = decile_of(losses, targets)
    ids = choose("stratified", ipc, 0, targets, deciles, 3)
    for c in range(3):
        counts = np.bincount(deciles[ids][targets[ids] == c], minlength=10)
        assert counts.sum() == ipc and counts.max() - counts.min() <= 1
        # As many easy as hard ones, but for one.
        assert abs(int(counts[:5].sum()) - int(counts[5:].sum())) <= 1


def test_random_images_are_those_of_the_other_studies_and_seeds_differ():
    losses, targets = made()
    deciles = decile_of(losses, targets)
    assert np.array_equal(choose("random", 3, 5, targets, deciles, 3), images_per_class(targets, 3, 5, num_classes=3))
    for strategy in STRATEGIES:
        assert len({tuple(choose(strategy, 2, seed, targets, deciles, 3)) for seed in range(8)}) > 1


def test_what_cannot_be_chosen_is_refused():
    losses, targets = made()
    deciles = decile_of(losses, targets)
    with pytest.raises(InputError, match="unknown strategy 'easy': known are 0, 1"):
        choose("easy", 1, 0, targets, deciles, 3)
    with pytest.raises(InputError, match="has 4 images to choose from, 5 per class were asked for"):
        choose("9", 5, 0, targets, deciles, 3)
