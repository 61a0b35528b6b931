from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlabel.errors import InputError
from fastlabel.sampling import images_per_class

TARGETS = np.arange(40) % 4


def test_golden_values():
    assert images_per_class(TARGETS, 2, 7).tolist() == [1, 12, 18, 19, 27, 29, 30, 36]
    assert images_per_class(TARGETS, 1, 7).tolist() == [12, 19, 29, 30]
    assert images_per_class(TARGETS, 2, 8).tolist() == [1, 15, 20, 21, 22, 28, 31, 38]
    assert images_per_class(TARGETS, 1, 2**64 - 1).dtype == np.int64


@given(
    targets=st.lists(st.integers(0, 3), max_size=60).map(lambda rest: [0, 1, 2, 3] * 3 + rest),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
)
def test_n_of_each_class_and_fewer_are_a_subset(targets, n, seed):
    ids = images_per_class(targets, n, seed)
    assert np.array_equal(ids, np.unique(ids))
    assert np.bincount(np.array(targets)[ids]).tolist() == [n] * 4
    assert set(images_per_class(targets, 1, seed)) <= set(ids)


def test_a_sample_keeps_its_rank_when_the_file_grows_or_the_choice_shrinks():
    chosen = images_per_class(TARGETS, 3, 5)
    among = np.union1d(chosen, [0, 1, 2, 3])
    assert np.array_equal(images_per_class(TARGETS, 3, 5, among=among), chosen)
    assert set(images_per_class(TARGETS, 2, 5, among=chosen)) == set(images_per_class(TARGETS, 2, 5))


def test_every_image_is_equally_likely():
    counts = np.zeros(40)
    for seed in range(400):
        counts[images_per_class(TARGETS, 2, seed)] += 1
    assert counts.min() > 50
    assert counts.max() < 115


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 11}, "class 0 has 10 images to choose from, 11 per class"),
        ({"n": 1, "num_classes": 5}, "class 4 has 0 images"),
        ({"n": 2, "among": [0, 4, 1, 5, 2, 6, 3]}, "class 3 has 1 images"),
        ({"n": 0}, "1 or more, not 0"),
        ({"n": 1, "seed": -1}, "seed"),
        ({"n": 1, "among": [40]}, "between 0 and 39"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        images_per_class(TARGETS, **{"seed": 0, **arguments})
