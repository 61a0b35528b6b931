"""The random numbers of the views, and Numba's boxes against the reference in Python integers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlabel.kernels.view_boxes import (
    CENTER,
    IDENTITY,
    PAD_CROP,
    RANDOM_RESIZED_CROP,
    philox4x32,
    random_keys,
    view_box_reference,
    view_boxes,
)
from fastlabel.views import MAX_SIDE, ViewPolicy

ALL = 0xFFFFFFFF
WORDS = st.integers(0, ALL)
SIDES = st.integers(1, MAX_SIDE - 1) | st.integers(1, 700)
SEEDS = st.integers(0, 2**64 - 1)
VIEWS = st.integers(0, 2**32 - 1)
SAMPLES = st.integers(0, 2**63 - 1) | st.integers(0, 2_000_000)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ALL, ALL, ALL, ALL), (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == words


def test_keys_are_philox_words() -> None:
    """Words 0 and 1 of counter (sample, sample >> 32, index, stream << 16), as the reference defines them."""
    seed, stream, index = 0x299F31D0_A4093822, 2, 7
    ids = np.array([0, 5, 2**32 + 1, 2**63 - 1], np.int64)
    expected = []
    for sample in ids.tolist():
        words = philox4x32((sample & ALL, sample >> 32, index, stream << 16), (seed & ALL, seed >> 32))
        expected.append(words[0] << 32 | words[1])
    assert random_keys(seed, stream, index, ids).tolist() == expected
    assert random_keys(0, 0, 0, ids)[0] == 0x6627E8D5_E169C58D


def assert_equals_reference(
    kind: int,
    parameters: tuple[int, ...],
    aspects: tuple[int, ...],
    size: int,
    seed: int,
    view: int,
    samples: list[tuple[int, int, int]],
) -> None:
    ids, heights, widths = (np.array(column) for column in zip(*samples, strict=True))
    got = view_boxes(
        kind, parameters, aspects, size, seed, view, ids, heights.astype(np.int32), widths.astype(np.int32)
    )
    assert got.dtype == np.int32 and got.shape == (len(samples), 5)
    expected = [view_box_reference(kind, parameters, aspects, size, seed, view, *sample) for sample in samples]
    assert got.tolist() == [list(box) for box in expected]


BATCHES = st.lists(st.tuples(SAMPLES, SIDES, SIDES), min_size=1, max_size=20)
CORNERS = [(0, 1, 1), (2**63 - 1, 65535, 65535), (7, 1, 65535), (8, 65535, 1), (2**32, 2, 3)]


@settings(deadline=None)
@given(
    seed=SEEDS,
    view=VIEWS,
    samples=BATCHES,
    scale=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).map(sorted),
    ratio=st.tuples(st.floats(1 / 1000, 1000), st.floats(1 / 1000, 1000)).map(sorted),
    flip=st.booleans(),
)
@example(seed=2**64 - 1, view=2**32 - 1, samples=CORNERS, scale=[0.08, 1.0], ratio=[0.75, 4 / 3], flip=True)
@example(seed=0, view=0, samples=CORNERS, scale=[1.0, 1.0], ratio=[1.0, 1.0], flip=True)
@example(seed=1, view=0, samples=CORNERS, scale=[2e-7, 1.0], ratio=[2e-5, 60000.0], flip=False)
def test_random_resized_crop_equals_reference(
    seed: int, view: int, samples: list[tuple[int, int, int]], scale: list[float], ratio: list[float], flip: bool
) -> None:
    policy = ViewPolicy.random_resized_crop(32, seed, (scale[0], scale[1]), (ratio[0], ratio[1]), flip)
    parameters = (*policy.scale_q24, *policy.ratio_q16, int(flip))
    assert_equals_reference(RANDOM_RESIZED_CROP, parameters, policy.aspects_q16, 32, seed, view, samples)


@settings(deadline=None)
@given(
    seed=SEEDS,
    view=VIEWS,
    samples=BATCHES,
    scale=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).map(sorted),
    ratio=st.tuples(st.floats(1 / 1000, 1000), st.floats(1 / 1000, 1000)).map(sorted),
)
def test_random_resized_crops_lie_inside(
    seed: int, view: int, samples: list[tuple[int, int, int]], scale: list[float], ratio: list[float]
) -> None:
    ids, heights, widths = (np.array(column) for column in zip(*samples, strict=True))
    policy = ViewPolicy.random_resized_crop(9, seed, (scale[0], scale[1]), (ratio[0], ratio[1]))
    top, left, height, width, flip = policy.boxes(view, ids, heights, widths).T.astype(np.int64)
    assert (height >= 1).all() and (width >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + height <= heights).all() and (left + width <= widths).all()
    assert set(flip.tolist()) <= {0, 1}


@settings(deadline=None)
@given(
    seed=SEEDS,
    view=VIEWS,
    samples=BATCHES,
    size=SIDES,
    padding=st.integers(0, 65535) | st.integers(0, 8),
    flip=st.integers(0, 1),
)
@example(seed=2**64 - 1, view=2**32 - 1, samples=CORNERS, size=65535, padding=65535, flip=1)
@example(seed=3, view=0, samples=[(0, 32, 32), (1, 23, 24), (2, 24, 23)], size=32, padding=4, flip=1)
def test_pad_crop_equals_reference_and_stays_in_the_padded_image(
    seed: int, view: int, samples: list[tuple[int, int, int]], size: int, padding: int, flip: int
) -> None:
    assert_equals_reference(PAD_CROP, (padding, flip), (), size, seed, view, samples)
    for sample, height, width in samples:
        box = view_box_reference(PAD_CROP, (padding, flip), (), size, seed, view, sample, height, width)
        if box[2] == 0:
            assert min(height, width) + 2 * padding < size
        else:
            assert -padding <= box[0] <= height + padding - size and -padding <= box[1] <= width + padding - size


@settings(deadline=None)
@given(samples=BATCHES, fraction=st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)).map(sorted))
@example(samples=CORNERS, fraction=[1, 2**32 - 1])
@example(samples=CORNERS, fraction=[7, 8])
def test_center_and_identity_equal_reference(samples: list[tuple[int, int, int]], fraction: list[int]) -> None:
    assert_equals_reference(CENTER, tuple(fraction), (), 224, 0, 0, samples)
    assert_equals_reference(IDENTITY, (), (), 224, 0, 0, samples)


def test_threads_do_not_disturb_each_other() -> None:
    policy = ViewPolicy.random_resized_crop(224)
    sides = np.full(20_000, 400)
    expected = [policy.boxes(view, np.arange(20_000), sides, sides) for view in range(4)]
    got: dict[int, bool] = {}

    def compute(view: int) -> None:
        boxes = [policy.boxes(view, np.arange(20_000), sides, sides) for _ in range(5)]
        got[view] = all(np.array_equal(one, expected[view]) for one in boxes)

    threads = [threading.Thread(target=compute, args=(view,)) for view in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict.fromkeys(range(4), True)


def test_vectors_of_different_lengths_are_refused() -> None:
    sides = np.ones(3, np.int32)
    with pytest.raises(ValueError, match="one length"):
        view_boxes(IDENTITY, (), (), 8, 0, 0, np.arange(2), sides, sides)
    with pytest.raises(ValueError, match="one length"):
        view_boxes(IDENTITY, (), (), 8, 0, 0, np.arange(4).reshape(2, 2), np.ones((2, 2), np.int32), sides)
