"""decode_topk: the Numba kernel equals the reference; both keep the bounds that the codec's steps imply."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.kernels.decode_topk import decode_topk, decode_topk_reference, topk_probabilities
from fastlabel.kernels.decode_topk.numba import decode_topk_numba
from fastlabel.kernels.encode_topk import encode_topk
from fastlabel.kernels.label_format import TAIL_MODELS, take_rows, widen

KINDS = ["gaussian", "extreme", "equal", "flat", "confident", "lonely", "ties", "holes"]
SHAPES = st.tuples(st.sampled_from([0, 1, 41]), st.sampled_from([2, 10, 401, 1271]))
PARTS = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))
TEMPERATURES = st.one_of(st.sampled_from([1.0, 2.0, 0.5, 20.0, 1e-3, 1e6]), st.floats(0.05, 50))


def assert_equals_reference(label, C, temperature, tail_model="uniform", rows=None):
    got, expected = (f(*label, C, temperature, tail_model, rows) for f in (decode_topk, decode_topk_reference))
    assert got.dtype == torch.float32 and got.shape == (len(label[0]) if rows is None else len(rows), C)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    assert (got >= 0).all()
    sums = got.double().sum(1)
    assert (sums <= 1 + 1e-5).all()
    if tail_model != "zero":
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    shape=SHAPES,
    part=PARTS,
    temperature=TEMPERATURES,
    tail_model=st.sampled_from(TAIL_MODELS),
    seed=st.integers(0, 1000),
    rows=st.one_of(st.none(), st.lists(st.integers(0, 40), max_size=9)),
)
def test_equals_reference(make_logits, kind, shape, part, temperature, tail_model, seed, rows):
    B, C = shape
    label = encode_topk(make_logits(kind, B, C, seed), 1 + int(part * (C - 1)))
    rows_B = None if rows is None or not B else torch.tensor([row % B for row in rows], dtype=torch.int64)
    assert_equals_reference(label, C, temperature, tail_model, rows_B)


@pytest.mark.parametrize("decode", [decode_topk, decode_topk_reference])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_tail_models(make_logits, decode, temperature):
    """The definitions, from the uniform tail's result."""
    label = encode_topk(make_logits("gaussian", 41, 401, 0), 16)
    uniform, renormalised, zeroed = (decode(*label, 401, temperature, model) for model in TAIL_MODELS)
    kept = torch.zeros(41, 401, dtype=torch.bool).scatter_(1, widen(label[0]).long(), True)
    assert torch.equal(zeroed, uniform.where(kept, 0.0))
    torch.testing.assert_close(renormalised, zeroed / zeroed.sum(1, keepdim=True), rtol=1e-5, atol=1e-8)
    assert (zeroed.sum(1) < 0.99).any()
    for model, dense in zip(TAIL_MODELS, (uniform, renormalised, zeroed), strict=True):
        probs_BK, tail_B = topk_probabilities(label[1], label[2], 401, temperature, model)
        torch.testing.assert_close(dense.gather(1, widen(label[0]).long()), probs_BK, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(dense.where(~kept, 0).amax(1), tail_B, rtol=1e-6, atol=1e-9)


def test_all_tail_models_agree_when_all_classes_are_kept(make_logits):
    label = encode_topk(make_logits("gaussian", 41, 10, 0), 10)
    first, *others = (decode_topk(*label, 10, 2.0, model) for model in TAIL_MODELS)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("C", [401, 70001])
def test_rows_of_a_plane(make_logits, C):
    plane = encode_topk(make_logits("gaussian", 7, C, 0), 4)
    rows = torch.tensor([6, 0, 0, 3])
    expected = decode_topk(*(take_rows(tensor, rows) for tensor in plane), C, 2.0)
    assert torch.equal(decode_topk(*plane, C, 2.0, rows_B=rows), expected)
    assert decode_topk(*plane, C, rows_B=rows[:0]).shape == (0, C)


def test_one_compilation_serves_every_number_of_classes_and_rows():
    for C in (10, 70001):
        label = encode_topk(torch.zeros(2, C), 2)
        for rows in (None, torch.tensor([1, 0, 1])):
            decode_topk(*label, C, rows_B=rows)
    assert len(decode_topk_numba.signatures) == 1


def test_rows_out_of_range():
    plane = encode_topk(torch.randn(3, 10, generator=torch.Generator().manual_seed(0)), 4)
    rows = torch.tensor([2, 3, -1, 0])
    with pytest.raises(ValueError, match="2 rows are outside of the 3 labels; expected 0 to 2"):
        decode_topk(*plane, 10, rows_B=rows)
    probs = decode_topk_reference(*plane, 10, rows_B=rows)
    assert probs[1:3].isnan().all() and torch.equal(probs[[0, 3]], decode_topk_reference(*plane, 10)[[2, 0]])
    with pytest.raises(ValueError, match="4 rows are outside of the 0 labels"):
        decode_topk(*(tensor[:0] for tensor in plane), 10, rows_B=rows)
    assert decode_topk_reference(*(tensor[:0] for tensor in plane), 10, rows_B=rows).isnan().all()


@settings(deadline=None, max_examples=100)
@given(
    temperature=TEMPERATURES,
    codes=st.lists(st.integers(0, 255), min_size=0, max_size=5),
    tail=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    rest=st.sampled_from([0, 1, 3, 1000]),
)
def test_any_tail_gives_probabilities(temperature, codes, tail, rest):
    codes_BK = torch.tensor([[0, *sorted(codes)]], dtype=torch.uint8)
    classes_BK = torch.arange(codes_BK.shape[1])[None].to(torch.uint16)
    tail_B2 = torch.tensor([tail], dtype=torch.int32).to(torch.uint16)
    assert_equals_reference((classes_BK, codes_BK, tail_B2), codes_BK.shape[1] + rest, temperature)


def test_equals_reference_above_65536_classes(make_logits):
    logits = make_logits("gaussian", 3, 70001, 0)
    logits[:, 70000] = 30
    label = encode_topk(logits, 4)
    assert_equals_reference(label, 70001, 2.0)
    assert (decode_topk(*label, 70001).argmax(1) == 70000).all()


@pytest.mark.parametrize("decode", [decode_topk, decode_topk_reference])
def test_golden(decode):
    # Four classes at 0, -1, -1, -2 nats, K=2: see the first golden row of encode_topk.
    label = (
        torch.tensor([[0, 1]]).to(torch.uint16),
        torch.tensor([[0, 8]], dtype=torch.uint8),
        torch.tensor([[61185, 12]]).to(torch.uint16),
    )
    e = math.exp(-1)
    total = 1 + 2 * e + e**2
    expected = torch.tensor([[1, e, (e + e**2) / 2, (e + e**2) / 2]]) / total
    torch.testing.assert_close(decode(*label, 4), expected, rtol=1e-6, atol=0)
    # T=2: mean -1.5, log-mean-exp ln((e^-1 + e^-2) / 2) = -1.379885; half the variance is 0.120115.
    tail = math.exp(-1.5 / 2 + 0.120115 / 4)
    weights = torch.tensor([[1, math.exp(-0.5), tail, tail]])
    torch.testing.assert_close(decode(*label, 4, 2.0), weights / weights.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [1, 7, 401])
@pytest.mark.parametrize("tail_model", range(3))
def test_every_lane_is_written(make_logits, k, tail_model):
    arrays = [x.numpy() for x in encode_topk(make_logits("gaussian", 41, 401, 0), k)]
    out = np.full((41, 401), np.nan, np.float32)
    assert decode_topk_numba(*arrays, np.arange(41), 1.0, tail_model, out) == (0, 0)
    assert np.isfinite(out).all()


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["gaussian", "equal", "flat", "confident", "ties", "holes"]),
    C=st.sampled_from([2, 10, 401, 1271]),
    seed=st.integers(0, 1000),
)
def test_all_classes_kept_err_by_at_most_a_step(make_logits, kind, C, seed):
    logits = make_logits(kind, 7, C, seed).double()
    label = encode_topk(logits, C)
    probs = decode_topk(*label, C).double()
    gaps = logits.amax(1, keepdim=True) - logits
    # Half a step for the class and half a step for the normaliser.
    exact = gaps < 31.75
    error = (probs.log() - logits.log_softmax(1)).abs()[exact]
    assert error.max() <= 1 / 8 + 1e-6
    assert (probs[gaps == torch.inf] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["gaussian", "equal", "flat", "confident", "ties", "holes"]),
    C=st.sampled_from([10, 401, 1271]),
    k=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_tail_mass_errs_by_at_most_half_a_step(make_logits, kind, C, k, seed):
    logits = make_logits(kind, 7, C, seed).double()
    label = encode_topk(logits, k)
    outside = torch.ones_like(logits, dtype=torch.bool).scatter_(1, widen(label[0]).long(), False)
    true_tail = logits.masked_fill(~outside, -torch.inf).logsumexp(1)
    true_kept = logits.masked_fill(outside, -torch.inf).logsumexp(1)
    probs = decode_topk(*label, C).double()
    tail, kept = probs.where(outside, 0.0).sum(1), probs.where(~outside, 0.0).sum(1)
    some = true_tail > -torch.inf
    error = (tail.log() - kept.log() - (true_tail - true_kept))[some].abs()
    assert (error <= 0.5 / 256 + 1e-5).all()
    assert (tail[~some] == 0).all()


@pytest.mark.parametrize("kind", ["gaussian", "flat", "confident", "ties", "holes", "lonely"])
def test_round_trip_is_stable(make_logits, kind):
    label = encode_topk(make_logits(kind, 41, 401, 1), 401)
    again = encode_topk(decode_topk(*label, 401).double().log(), 401)
    assert torch.equal(again[1], label[1])


def test_round_trip_of_a_part_is_stable(make_logits):
    label = encode_topk(make_logits("gaussian", 41, 401, 1), 16)
    probs_BK, tail_B = topk_probabilities(label[1], label[2], 401)
    above = probs_BK.amin(1) > tail_B
    assert above.sum() > 30
    again = encode_topk(decode_topk(*label, 401).double().log(), 16)
    assert torch.equal(again[1][above], label[1][above])
    assert (widen(again[2])[above, 0] - widen(label[2])[above, 0]).abs().max() <= 1


def _kl(p, q):
    return (p * (p.log() - q.log())).sum(1).mean()


def test_the_mean_gap_improves_retempering(make_logits):
    logits = make_logits("gaussian", 500, 200, 0).double()
    classes, codes, tail = encode_topk(logits, 16)
    uniform = tail.clone()
    uniform.view(torch.int16)[:, 1] = -1  # 65535: no mean gap, the tail is tempered as R equal classes
    for temperature in (1.5, 2.0, 4.0):
        true = (logits / temperature).softmax(1)
        outside = torch.ones_like(true, dtype=torch.bool).scatter_(1, widen(classes).long(), False)
        with_mean, without = (decode_topk(classes, codes, t, 200, temperature).double() for t in (tail, uniform))
        assert _kl(true, with_mean) < 0.98 * _kl(true, without)
        mass_error, mass_error_without = (
            (q - true).where(outside, 0.0).sum(1).abs().mean() for q in (with_mean, without)
        )
        assert mass_error < 0.5 * mass_error_without


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
def test_cold_tails_stay_below_the_kept_classes(make_logits, temperature):
    label = encode_topk(make_logits("gaussian", 100, 401, 0), 8)
    probs_BK, tail_B = topk_probabilities(label[1], label[2], 401, temperature)
    assert (tail_B <= probs_BK.amin(1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decode", [decode_topk, decode_topk_reference])
def test_no_temperature_overflows(make_logits, kind, decode):
    label = encode_topk(make_logits(kind, 41, 401, 0), 8)
    for temperature in (1e-200, 1e-30, 1e30, 1e200):
        sums = decode(*label, 401, temperature).double().sum(1)
        torch.testing.assert_close(sums, torch.ones(41).double(), rtol=0, atol=1e-5)


def test_damaged_class_ids_are_reported():
    classes, codes, tail = encode_topk(torch.zeros(3, 10), 4)
    classes.view(torch.int16)[1, 2] = 10
    with pytest.raises(ValueError, match="1 class ids are 10 or more"):
        decode_topk(classes, codes, tail, 10)
    # Where nothing can be raised, the damaged row is NaN, and nothing is written elsewhere.
    probs = decode_topk_reference(classes, codes, tail, 10)
    assert probs[1].isnan().all() and not probs[[0, 2]].isnan().any()


def test_wrong_arguments():
    classes, codes, tail = encode_topk(torch.zeros(3, 10), 4)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature is"):
            decode_topk(classes, codes, tail, 10, bad)
    with pytest.raises(ValueError, match="K=4 classes, more than the 3"):
        decode_topk(classes, codes, tail, 3)
    with pytest.raises(TypeError, match=r"expected torch\.uint32 for 70000 classes"):
        decode_topk(classes, codes, tail, 70000)
    with pytest.raises(ValueError, match=r"tail has shape \(2, 2\), expected \(3, 2\)"):
        decode_topk(classes, codes, tail[:2], 10)
    with pytest.raises(TypeError, match=r"codes have dtype torch\.int16"):
        decode_topk(classes, codes.to(torch.int16), tail, 10)
    with pytest.raises(ValueError, match=r"classes have shape \(3, 3\)"):
        decode_topk(classes[:, :3], codes, tail, 10)
    with pytest.raises(ValueError, match="tail_model is 'none', expected one of 'uniform', 'renormalise', 'zero'"):
        decode_topk(classes, codes, tail, 10, tail_model="none")
    with pytest.raises(TypeError, match=r"rows have dtype torch\.int32, expected torch\.int64"):
        decode_topk(classes, codes, tail, 10, rows_B=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"rows have shape \(1, 2\), expected \[B\]"):
        decode_topk(classes, codes, tail, 10, rows_B=torch.zeros(1, 2, dtype=torch.int64))
