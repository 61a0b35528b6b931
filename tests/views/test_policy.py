"""Views: what a box depends on, and what not; golden boxes; torchvision's distribution; what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from fastlabel.errors import InputError
from fastlabel.sampling import random_order, view_of_epoch
from fastlabel.views import KINDS, ViewPolicy

IDS = [0, 1, 2, 999, 1281166, 2**40]
HEIGHTS, WIDTHS = [375, 500, 333, 32, 1, 500], [500, 333, 500, 32, 500, 40]
POLICIES = [
    ViewPolicy.random_resized_crop(224, seed=3),
    ViewPolicy.random_resized_crop(32, seed=2**64 - 1, scale=(0.2, 0.9), ratio=(1, 2), flip=False),
    ViewPolicy.pad_crop(32, seed=1),
    ViewPolicy.pad_crop(28, seed=1, padding=0, flip=False),
    ViewPolicy.center(224, seed=5),
    ViewPolicy.identity(32),
]

# A label is stored for a box: these must never change. (policy, view, heights, widths, boxes of IDS)
GOLDEN: list[tuple[ViewPolicy, int, list[int], list[int], list[list[int]]]] = [
    (
        ViewPolicy.random_resized_crop(224, seed=0),
        0,
        HEIGHTS,
        WIDTHS,
        [
            [86, 107, 259, 323, 1],
            [165, 5, 332, 283, 1],
            [28, 103, 135, 121, 0],
            [3, 1, 28, 24, 0],
            [0, 249, 1, 1, 0],
            [350, 3, 45, 37, 1],
        ],
    ),
    (
        ViewPolicy.random_resized_crop(224, seed=2**64 - 1),
        2**32 - 1,
        HEIGHTS,
        WIDTHS,
        [
            [85, 283, 194, 207, 0],
            [178, 14, 278, 313, 1],
            [11, 120, 268, 255, 0],
            [4, 3, 27, 21, 1],
            [0, 249, 1, 1, 1],
            [223, 0, 53, 40, 0],
        ],
    ),
    (
        ViewPolicy.random_resized_crop(32, seed=5, scale=(0.5, 0.9), ratio=(1, 2), flip=False),
        1,
        HEIGHTS,
        WIDTHS,
        [
            [31, 77, 313, 392, 0],
            [130, 2, 283, 325, 0],
            [3, 54, 315, 338, 0],
            [9, 1, 21, 30, 0],
            [0, 249, 1, 2, 0],
            [230, 0, 40, 40, 0],
        ],
    ),
    (
        ViewPolicy.pad_crop(32, seed=0),
        0,
        [32] * 6,
        [32] * 6,
        [
            [2, 1, 32, 32, 1],
            [2, -4, 32, 32, 1],
            [-3, -2, 32, 32, 0],
            [1, -3, 32, 32, 0],
            [0, -1, 32, 32, 0],
            [-3, -2, 32, 32, 1],
        ],
    ),
    (
        ViewPolicy.pad_crop(28, seed=1, padding=0, flip=False),
        3,
        [32] * 6,
        [32] * 6,
        [
            [4, 0, 28, 28, 0],
            [2, 2, 28, 28, 0],
            [0, 3, 28, 28, 0],
            [3, 1, 28, 28, 0],
            [3, 4, 28, 28, 0],
            [4, 2, 28, 28, 0],
        ],
    ),
    (
        ViewPolicy.center(224),
        0,
        HEIGHTS,
        WIDTHS,
        [
            [23, 86, 328, 328, 0],
            [104, 21, 291, 291, 0],
            [21, 104, 291, 291, 0],
            [2, 2, 28, 28, 0],
            [0, 249, 1, 1, 0],
            [232, 2, 35, 35, 0],
        ],
    ),
    (
        ViewPolicy.identity(224),
        9,
        HEIGHTS,
        WIDTHS,
        [
            [0, 0, 375, 500, 0],
            [0, 0, 500, 333, 0],
            [0, 0, 333, 500, 0],
            [0, 0, 32, 32, 0],
            [0, 0, 1, 500, 0],
            [0, 0, 500, 40, 0],
        ],
    ),
]


@pytest.mark.parametrize(("policy", "view", "heights", "widths", "boxes"), GOLDEN, ids=lambda value: "")
def test_golden_boxes(
    policy: ViewPolicy, view: int, heights: list[int], widths: list[int], boxes: list[list[int]]
) -> None:
    got = policy.boxes(view, IDS, heights, widths)
    assert got.dtype == np.int32
    assert got.tolist() == boxes


def test_golden_parameters() -> None:
    """The integers that the floats 0.08 to 1 and 3/4 to 4/3 stand for: any libm must give the same."""
    policy = ViewPolicy.random_resized_crop(224)
    assert (policy.scale_q24, policy.ratio_q16) == ((1342177, 16777216), (49152, 87381))
    aspects = policy.aspects_q16
    assert aspects[:3] == (56788, 56852, 56916) and aspects[127:129] == (65499, 65573)
    assert aspects[-2:] == (75547, 75632) and len(aspects) == 256 and sum(aspects) == 16835131


def test_golden_orders() -> None:
    ids = np.arange(10)
    assert random_order(ids, 0, 0).tolist() == [8, 5, 3, 4, 6, 2, 7, 1, 0, 9]
    assert random_order(ids, 0, 1).tolist() == [1, 2, 9, 3, 7, 8, 4, 0, 6, 5]
    assert random_order(ids, 2**64 - 1, 2**32 - 1).tolist() == [3, 6, 8, 5, 2, 7, 9, 4, 0, 1]
    assert [view_of_epoch(epoch, 8, 0) for epoch in range(8)] == [1, 3, 6, 2, 0, 5, 7, 4]
    assert [view_of_epoch(epoch, 8, 3) for epoch in range(8)] == [3, 0, 6, 2, 4, 7, 5, 1]


@settings(deadline=None)
@given(policy=st.sampled_from(POLICIES), view=st.integers(0, 2**32 - 1), data=st.data())
def test_a_box_depends_on_nothing_but_its_own_sample(policy: ViewPolicy, view: int, data: st.DataObject) -> None:
    """Neither on the order, nor on the batch, nor on which other samples there are."""
    sides = st.integers(28, 600)
    samples = data.draw(st.lists(st.tuples(st.integers(0, 2**40), sides, sides), min_size=1, max_size=30))
    ids, heights, widths = np.array(samples).T
    whole = policy.boxes(view, ids, heights, widths)
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    assert np.array_equal(policy.boxes(view, ids[order], heights[order], widths[order]), whole[order])
    one = data.draw(st.integers(0, len(ids) - 1))
    alone = policy.boxes(view, ids[one : one + 1], heights[one : one + 1], widths[one : one + 1])
    assert np.array_equal(alone[0], whole[one])
    assert np.array_equal(policy.boxes(view, samples_of(ids), list(heights), tuple(widths.tolist())), whole)


def samples_of(ids: np.ndarray) -> np.ndarray:
    """The same ids in another layout: big-endian, every second of an array."""
    return np.repeat(ids, 2).astype(">i8")[::2]


def test_seed_view_and_sample_each_matter() -> None:
    ids, sides = np.arange(500), np.full(500, 400)
    boxes = ViewPolicy.random_resized_crop(224, seed=1).boxes(0, ids, sides, sides)
    others = [
        ViewPolicy.random_resized_crop(224, seed=2).boxes(0, ids, sides, sides),
        ViewPolicy.random_resized_crop(224, seed=1 + 2**32).boxes(0, ids, sides, sides),
        ViewPolicy.random_resized_crop(224, seed=1).boxes(1, ids, sides, sides),
        ViewPolicy.random_resized_crop(224, seed=1).boxes(0, ids + 2**32, sides, sides),
        np.roll(boxes, 1, axis=0),
    ]
    for other in others:
        assert (boxes != other).any(axis=1).mean() > 0.99
        assert 0.4 < (boxes[:, 4] == other[:, 4]).mean() < 0.6


def test_a_view_of_imagenet_and_an_empty_batch() -> None:
    random, count = np.random.default_rng(0), 1_281_167
    heights, widths = random.integers(75, 501, count), random.integers(75, 501, count)
    for policy in (ViewPolicy.random_resized_crop(224), ViewPolicy.center(224), ViewPolicy.pad_crop(64, padding=1)):
        boxes = policy.boxes(0, np.arange(count), heights, widths)
        assert boxes.shape == (count, 5)
        few = np.array([0, 65535, 65536, count - 1])
        assert np.array_equal(policy.boxes(0, few, heights[few], widths[few]), boxes[few])
        assert policy.boxes(0, [], [], []).shape == (0, 5)


# --- Distributions -----------------------------------------------------------------------------------------------


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Kolmogorov-Smirnov: how far apart the two cumulative distributions are, at most."""
    points = np.concatenate([ours, theirs])
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 333, (0.5, 0.9), (1.0, 2.0)),
        (64, 64, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 60, (0.08, 1.0), (3 / 4, 4 / 3)),  # often no box fits, and the central one is taken
        (60, 500, (0.3, 1.0), (1 / 2, 2.0)),
    ],
)
def test_random_resized_crop_has_the_distribution_of_torchvision(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    count = 5000
    transform = v2.RandomResizedCrop(224, scale=scale, ratio=ratio)
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [transform.make_params([image]) for _ in range(count)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in drawn], float)
    policy = ViewPolicy.random_resized_crop(224, seed=8, scale=scale, ratio=ratio)
    boxes = policy.boxes(0, np.arange(count), np.full(count, height), np.full(count, width))
    ours = boxes[:, :4].astype(float)

    def features(b: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "area": b[:, 2] * b[:, 3] / (height * width),
            "height": b[:, 2],
            "width": b[:, 3],
            "aspect": b[:, 3] / b[:, 2],
            "top": b[:, 0],
            "left": b[:, 1],
            "bottom": b[:, 0] + b[:, 2],
            "centre": b[:, 1] + b[:, 3] / 2,
        }

    limit = 1.95 * np.sqrt(2 / count)  # exceeded by chance once in a thousand
    distances = {name: distance(features(ours)[name], features(theirs)[name]) for name in features(ours)}
    assert max(distances.values()) < limit, distances
    for name, values in features(ours).items():
        spread = np.std(features(theirs)[name]) + 1e-9
        assert abs(values.mean() - features(theirs)[name].mean()) < 0.1 * spread, name
        quantiles = [np.quantile(v, [0.05, 0.25, 0.5, 0.75, 0.95]) for v in (values, features(theirs)[name])]
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.15 * spread + 1, name
    # The flip is a fair coin, whatever the box is.
    assert abs(boxes[:, 4].mean() - 0.5) < 0.025
    for values in features(ours).values():
        large = values > np.median(values)
        assert abs(boxes[large, 4].mean() - 0.5) < 0.05 if large.sum() > 1000 else True


def test_pad_crop_takes_each_place_equally_often() -> None:
    count = 81 * 400
    sides = np.full(count, 32)
    boxes = ViewPolicy.pad_crop(32, seed=4).boxes(2, np.arange(count), sides, sides)
    places = np.bincount((boxes[:, 0] + 4) * 9 + boxes[:, 1] + 4, minlength=81)
    assert len(places) == 81
    assert ((places - 400) ** 2 / 400).sum() < 140  # chi-squared, 80 degrees of freedom: 125 once in a thousand
    assert abs(boxes[:, 4].mean() - 0.5) < 0.01


def test_views_of_a_sample_are_independent() -> None:
    sides = np.full(4000, 400)
    tops = [ViewPolicy.random_resized_crop(224).boxes(view, np.arange(4000), sides, sides)[:, 0] for view in range(4)]
    correlations = np.corrcoef([*tops, np.roll(tops[0], 1)])
    assert np.abs(correlations - np.eye(5)).max() < 0.06


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_random_order_is_a_permutation_that_ignores_what_came_first(seed: int) -> None:
    ids = np.array([9, 4, 2**40, 0, 77, 1000, 3, 12])
    for epoch in range(20):
        order = random_order(ids, seed, epoch)
        assert sorted(order.tolist()) == sorted(ids.tolist())
        assert np.array_equal(random_order(ids[::-1], seed, epoch), order)
        some = ids[:4]
        assert np.array_equal(random_order(some, seed, epoch), order[np.isin(order, some)])
    orders = {tuple(random_order(ids, seed, epoch).tolist()) for epoch in range(20)}
    assert len(orders) == 20


def test_random_order_is_uniform() -> None:
    first = [int(random_order(np.arange(10), 7, epoch)[0]) for epoch in range(2000)]
    assert (np.abs(np.bincount(first, minlength=10) - 200) < 60).all()


@pytest.mark.parametrize("num_views", [1, 2, 7, 300])
def test_each_cycle_of_epochs_visits_each_view_once(num_views: int) -> None:
    views = [view_of_epoch(epoch, num_views, seed=5) for epoch in range(2 * num_views)]
    assert sorted(views[:num_views]) == list(range(num_views))
    assert views[num_views:] == views[:num_views]


# --- State, and what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_policy_survives_json(policy: ViewPolicy) -> None:
    kept = json.loads(json.dumps(policy.to_dict()))
    again = ViewPolicy.from_dict(kept)
    assert again == policy and hash(again) == hash(policy)
    assert again.to_dict() == kept
    sides = np.full(50, 40)
    assert np.array_equal(again.boxes(3, np.arange(50), sides, sides), policy.boxes(3, np.arange(50), sides, sides))


def test_numbers_of_numpy_are_as_good() -> None:
    policy = ViewPolicy.pad_crop(np.int64(32), seed=np.uint64(7))  # type: ignore[arg-type]
    assert policy == ViewPolicy.pad_crop(32, seed=7)
    assert json.loads(json.dumps(policy.to_dict()))["seed"] == 7


@pytest.mark.parametrize("name", KINDS)
def test_from_name(name: str) -> None:
    policy = ViewPolicy.from_name(name, 32, seed=3)
    assert (policy.name, policy.size, policy.seed) == (name, 32, 3)
    assert not ViewPolicy.from_name(name, 32, flip=False).flip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViewPolicy("zoom", 32), "unknown view policy 'zoom'; choose one of random-resized-crop"),
        (lambda: ViewPolicy.from_name("zoom", 32), "unknown view policy 'zoom'"),
        (lambda: ViewPolicy.identity(0), "view size 0 must be 1 to 65535"),
        (lambda: ViewPolicy.identity(65536), "view size 65536"),
        (lambda: ViewPolicy.identity(32.5), "view size 32.5 must be an integer"),  # type: ignore[arg-type]
        (lambda: ViewPolicy.identity("32"), "must be an integer"),  # type: ignore[arg-type]
        (lambda: ViewPolicy.identity(32, seed=-1), "view seed -1 must be 0"),
        (lambda: ViewPolicy.identity(32, seed=2**64), "view seed 18446744073709551616"),
        (lambda: ViewPolicy.identity(32, seed=1.5), "view seed 1.5"),  # type: ignore[arg-type]
        (lambda: ViewPolicy.pad_crop(32, padding=-1), "padding -1"),
        (lambda: ViewPolicy.pad_crop(32, padding=2**40), "padding"),
        (lambda: ViewPolicy.center(32, fraction=(9, 8)), "fraction"),
        (lambda: ViewPolicy.center(32, fraction=(0, 8)), "fraction"),
        (lambda: ViewPolicy.center(32, fraction=(2**60, 2**60)), "parameter"),
        (lambda: ViewPolicy.random_resized_crop(32, scale=(0.0, 1.0)), "scale"),
        (lambda: ViewPolicy.random_resized_crop(32, scale=(0.5, 0.2)), "scale"),
        (lambda: ViewPolicy.random_resized_crop(32, scale=(0.5, 1.01)), "scale"),
        (lambda: ViewPolicy.random_resized_crop(32, scale=(float("nan"), 1.0)), "scale"),
        (lambda: ViewPolicy.random_resized_crop(32, scale=(0.1, float("inf"))), "scale"),
        (lambda: ViewPolicy.random_resized_crop(32, ratio=(0.0, 1.0)), "ratio"),
        (lambda: ViewPolicy.random_resized_crop(32, ratio=(2.0, 1.0)), "ratio"),
        (lambda: ViewPolicy.random_resized_crop(32, ratio=(1.0, float("inf"))), "ratio"),
        (lambda: ViewPolicy.random_resized_crop(32, ratio=(1.0, 1e9)), "below 65536"),
        (lambda: ViewPolicy("random-resized-crop", 32), "scale"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    "change",
    [
        {"padding": None},
        {"seed": None},
        {"size": "32"},
        {"padding": [4]},
        {"zoom": 3},
        {"fraction": [7, 8]},
        {"name": "zoom"},
        {"name": "random-resized-crop"},
    ],
)
def test_a_dict_that_is_not_whole_is_refused(change: dict[str, Any]) -> None:
    """None takes the key out. A parameter that is missing must not be taken for its default."""
    data = ViewPolicy.pad_crop(32, seed=3).to_dict() | change
    with pytest.raises(InputError):
        ViewPolicy.from_dict({key: value for key, value in data.items() if value is not None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, [0], [32], [32]), "view -1"),
        ((2**32, [0], [32], [32]), "view 4294967296"),
        ((0.5, [0], [32], [32]), "view 0.5 must be an integer"),
        ((0, [0, -1], [32, 32], [32, 32]), "sample ids -1"),
        ((0, [0.5], [32], [32]), "sample ids must be integers"),
        ((0, [True], [32], [32]), "sample ids must be integers"),
        ((0, [0], [0], [32]), "heights 0"),
        ((0, [0], [32], [65536]), "widths 65536"),
        ((0, [0], [2**32 + 32], [32]), "heights"),
        ((0, [0, 1], [32], [32]), "one length"),
    ],
)
def test_boxes_refuses_what_it_cannot_take(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewPolicy.random_resized_crop(32).boxes(*arguments)


def test_an_image_too_small_for_pad_crop_is_named() -> None:
    policy = ViewPolicy.pad_crop(32, padding=4)
    assert policy.boxes(0, [70], [24], [24])[0].tolist()[:4] == [-4, -4, 32, 32]
    with pytest.raises(InputError, match=r"sample 71 is 24x23 pixels: too small for a 32x32 crop with padding 4"):
        policy.boxes(0, [70, 71, 72], [32, 24, 5], [32, 23, 5])


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_seeds_of_orders_are_checked(seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        random_order(np.arange(3), seed, 0)
    with pytest.raises(InputError, match="seed"):
        view_of_epoch(0, 3, seed)
    with pytest.raises(InputError, match="epoch"):
        random_order(np.arange(3), 0, -1)
