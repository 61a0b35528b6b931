"""encode_topk: the Numba kernel equals the reference to the byte, and the reference equals exact arithmetic."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel import kernels
from fastlabel.kernels.encode_topk import encode_topk, encode_topk_reference
from fastlabel.kernels.encode_topk.numba import SORT_FROM, encode_topk_numba
from fastlabel.kernels.encode_topk.weight import weight
from fastlabel.kernels.label_format import widen

KINDS = ["gaussian", "extreme", "equal", "flat", "confident", "lonely", "ties", "holes"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF = torch.inf

# logits of four classes, K=2 -> classes, codes, [mass, mean gap]
GOLDEN = [
    # Tail (e^-1 + e^-2) over kept (1 + e^-1) is e^-1: log-odds -1, code 1 + 239 * 256. Mean gap 12 / 8.
    ([0.0, -1.0, -1.0, -2.0], [0, 1], [0, 8], [61185, 12]),
    # All equal: the lower classes are kept; half of the mass is outside, log-odds 0, code 1 + 240 * 256.
    ([7.0, 7.0, 7.0, 7.0], [0, 1], [0, 0], [61441, 0]),
    # Half a step, 1/16 nat, rounds up. ln(2 e^-1 / (1 + e^-0.0625)) = -0.96924 = -248.1 / 256.
    ([0.0, 0.9375, 1.0, 0.0], [2, 1], [0, 1], [61193, 8]),
    # Gap of 31.5 (252 steps); tail (1 + 1) e^-40 over kept 1: ln 2 - 40 = -10062.6 / 256.
    ([40.0, 8.5, 0.0, 0.0], [0, 1], [0, 252], [1 + 61440 - 10063, 320]),
    # Gap of 31.75 (254 steps, the last code); no tail.
    ([31.75, 0.0, -INF, -INF], [0, 1], [0, 254], [0, 65535]),
    # Everything else at -inf: class 0 is kept at probability zero.
    ([-INF, 5.0, -INF, -INF], [1, 0], [0, 255], [0, 65535]),
    # A tail at -10000 nats has mass all the same (the lowest code, 1); a mean gap of 15000 saturates.
    ([10000.0, 0.0, -10000.0, 3.0], [0, 3], [0, 254], [1, 65534]),
    # A hole in the tail leaves its mass (log-odds ln(1 / 2) = -177.4 / 256) and takes its mean.
    ([0.0, 0.0, -INF, 0.0], [0, 1], [0, 0], [1 + 61440 - 177, 65535]),
]


@pytest.mark.parametrize("encode", [encode_topk, encode_topk_reference])
def test_golden(encode):
    classes, codes, tail = encode(torch.tensor([row[0] for row in GOLDEN]), 2)
    assert widen(classes).tolist() == [row[1] for row in GOLDEN]
    assert codes.tolist() == [row[2] for row in GOLDEN]
    assert widen(tail).tolist() == [row[3] for row in GOLDEN]


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(widen(one), widen(other))


def assert_equals_reference(logits, k):
    assert_same(encode_topk(logits, k), encode_topk_reference(logits, k))


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    B=st.sampled_from([0, 1, 41]),
    C=st.sampled_from([2, 10, 401, 1271]),
    part=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    seed=st.integers(0, 1000),
)
def test_equals_reference(make_logits, kind, dtype, B, C, part, seed):
    assert_equals_reference(make_logits(kind, B, C, seed).to(dtype), 1 + int(part * (C - 1)))


@pytest.mark.parametrize("C", [70001, 1 << 17])
@pytest.mark.parametrize("k", [1, 256, SORT_FROM])
def test_equals_reference_above_65536_classes(make_logits, C, k):
    for kind in ("gaussian", "ties"):
        assert_equals_reference(make_logits(kind, 2, C, k), k)


def test_one_compilation_serves_every_dtype_and_number_of_classes():
    for C in (10, 70001):
        for dtype in DTYPES:
            encode_topk(torch.zeros(2, C, dtype=dtype), 2)
    assert len(encode_topk_numba.signatures) == 1


def test_class_ids_above_65535():
    classes, _, _ = encode_topk(torch.arange(70001.0)[None], 2)
    assert classes.dtype == torch.uint32
    assert widen(classes).tolist() == [[70000, 69999]]


@pytest.mark.parametrize("order", [1, -1])
def test_sorted_rows_take_either_path(order):
    logits = (torch.arange(900.0) * order).expand(2, 900)
    for k in (1, SORT_FROM - 1, SORT_FROM, 900):
        assert_equals_reference(logits, k)


def test_float64_beyond_float32():
    assert_equals_reference(torch.tensor([[1e308, -1e308, 3.0], [1.0, 1.0 + 1e-15, 0.0]], dtype=torch.float64), 2)


def test_strided_logits_that_need_gradients(make_logits):
    logits = make_logits("gaussian", 401, 41, 0).T.requires_grad_()
    assert_equals_reference(logits, 5)
    assert not any(x.requires_grad for x in encode_topk(logits, 5))


@pytest.mark.parametrize("k", [1, 7, SORT_FROM, 401])
@pytest.mark.parametrize("words", [1, 2])
def test_every_lane_is_written(make_logits, k, words):
    logits = make_logits("gaussian", 41, 401, 3).numpy()
    results = []
    for filler in (0xA5, 0x5A):
        arrays = [np.full((41, w), filler, t) for w, t in ((k * words, np.uint16), (k, np.uint8), (2, np.uint16))]
        encode_topk_numba(logits, *arrays)
        results.append(arrays)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


@settings(deadline=None, max_examples=300)
@given(
    top=st.floats(-1e4, 1e4, width=32),
    step=st.integers(0, 256),
    ulps=st.integers(-2, 2),
)
def test_codes_are_exact_beside_their_boundaries(top, step, ulps):
    """Halves of a step, and their float32 neighbours, against Python's float64."""
    low = np.float32(top - (step + 0.5) / 8)
    for _ in range(abs(ulps)):
        low = np.nextafter(low, np.float32(np.sign(ulps) * np.inf))
    logits = torch.tensor([[top, float(low), -2e4]])
    exact = min(254, math.floor(8 * abs(top - float(low)) + 0.5))
    assert encode_topk(logits, 2)[1].tolist() == [[0, exact]]
    assert encode_topk_reference(logits, 2)[1].tolist() == [[0, exact]]


def test_weights_are_near_exp():
    gap = torch.cat([torch.linspace(0, 60, 400_001), torch.tensor([100.0, 1e30, torch.inf])])
    exact = gap.double().neg().exp()
    error = (weight(gap).double() / exact - 1).abs()[:-3]
    assert (error <= 2.7e-7 + 8e-8 * gap[:-3]).all()
    assert (weight(gap)[-3:] == 2.0**-100).all()
    assert weight(torch.zeros(1)).item() == 1


@pytest.mark.parametrize("kind", ["gaussian", "extreme", "flat", "confident", "lonely", "ties"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_are_within_a_step_of_exact_ones(make_logits, kind, dtype):
    logits = make_logits(kind, 500, 401, 5).to(dtype)
    ordered = logits.double().sort(dim=1, descending=True).values
    kept, rest = ordered[:, :16], ordered[:, 16:]
    # The definition of docs/format.md.
    log_odds = rest.logsumexp(1) - kept.logsumexp(1)
    mass = 1 + (256 * (log_odds + 240) + 0.5).floor().clamp(0, 65534)
    mean = (8 * (ordered[:, :1] - rest).mean(1) + 0.5).floor().clamp(0, 65534)
    tail = widen(encode_topk(logits, 16)[2])
    difference = torch.stack([mass, mean], dim=1) - tail
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.005


def test_negative_zero_equals_zero():
    logits = torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0]])
    for dtype in DTYPES:
        assert widen(encode_topk(logits.to(dtype), 3)[0]).tolist() == [[0, 1, 2]]
        assert_equals_reference(logits.to(dtype), 3)


@pytest.mark.parametrize("k", [1, 4, SORT_FROM])
def test_rows_that_are_undefined_stay_in_bounds(k):
    logits = torch.randn(5, 900, generator=torch.Generator().manual_seed(0))
    logits[0] = torch.nan
    logits[1] = -torch.nan
    logits[2, ::2] = torch.nan
    logits[3] = torch.inf
    logits[4] = -torch.inf
    classes = widen(encode_topk(logits, k)[0])
    assert all(len(set(row)) == k and min(row) >= 0 and max(row) < 900 for row in classes.tolist())


def test_a_row_depends_on_nothing_but_itself(make_logits):
    logits = make_logits("gaussian", 41, 1271, 4)
    whole = encode_topk(logits, 16)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        single = encode_topk(logits, 16)
    finally:
        numba.set_num_threads(threads)
    rows = [encode_topk(logits[b : b + 1], 16) for b in range(41)]
    for i in range(3):
        assert torch.equal(widen(whole[i]), widen(single[i]))
        assert torch.equal(widen(whole[i]), torch.cat([widen(row[i]) for row in rows]))


def test_two_threads_at_once(make_logits):
    batches = [make_logits("gaussian", 64, 401, seed) for seed in range(8)]
    expected = [encode_topk(batch, 16) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            got = list(pool.map(lambda batch: encode_topk(batch, 16), batches))
            assert all(
                torch.equal(widen(a), widen(b))
                for x, y in zip(got, expected, strict=True)
                for a, b in zip(x, y, strict=True)
            )
    assert numba.threading_layer() in ("tbb", "omp")


def test_workqueue_is_refused(monkeypatch):
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    with pytest.raises(RuntimeError, match="workqueue"):
        kernels._require_threadsafe_layer()


@pytest.mark.parametrize(
    ("logits", "k", "error", "message"),
    [
        (torch.zeros(3), 1, ValueError, r"shape \(3,\), expected \[B, C\]"),
        (torch.zeros(3, 4), 5, ValueError, "k is 5, expected 1 to the number of classes, 4"),
        (torch.zeros(3, 4), 0, ValueError, "k is 0"),
        (torch.zeros(3, 4, dtype=torch.int64), 1, TypeError, "int64"),
    ],
)
def test_wrong_arguments(logits, k, error, message):
    with pytest.raises(error, match=message):
        encode_topk(logits, k)
