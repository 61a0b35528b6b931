"""Each operation on sparse labels against its definition on dense rows, written here in float64."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel import SparseLabels, TopKCodec, label_ops
from fastlabel.errors import InputError
from fastlabel.kernels.view_boxes.reference import draw as philox_words
from fastlabel.labels.ops import structure
from tests.labels.sparse_cases import WEIGHTS, assert_stands_for, dense_rows, from_numpy, listed_in_order, sparse_labels

some = settings(max_examples=60, deadline=None)
SHUFFLE_STREAM = 3


def normalised(rows: np.ndarray) -> np.ndarray:
    mass = rows.sum(1, keepdims=True)
    return np.divide(rows, mass, out=np.zeros_like(rows), where=mass > 0)


def entropies(rows: np.ndarray) -> np.ndarray:
    p = normalised(rows)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1)


@given(sparse_labels())
@some
def test_entropy_and_top1(labels):
    dense = dense_rows(labels)
    found = label_ops.entropy(labels).numpy()
    dead = dense.sum(1) == 0
    assert np.isnan(found[dead]).all()
    np.testing.assert_allclose(found[~dead], entropies(dense)[~dead], atol=1e-12)
    for b, top in enumerate(label_ops.top1(labels).tolist()):
        order = listed_in_order(labels, b)
        unlisted = sorted(set(range(labels.num_classes)) - set(order))
        weighty = [c for c in order if dense[b, c] > 0]
        assert top == [*weighty, *unlisted, *order][0]


@given(sparse_labels())
@some
def test_renormalise(labels):
    result = label_ops.renormalise(labels)
    assert_stands_for(result, normalised(dense_rows(labels)))
    assert_stands_for(label_ops.renormalise(result), dense_rows(result))


@pytest.mark.parametrize("rest", ["zero", "renormalise", "tail"])
@given(labels=sparse_labels(), data=st.data())
@some
def test_keep_top(rest, labels, data):
    j = data.draw(st.integers(1, labels.width))
    dense = dense_rows(labels)
    expected = np.zeros_like(dense)
    for b, row in enumerate(dense):
        kept = listed_in_order(labels, b)[:j]
        others = [c for c in range(labels.num_classes) if c not in kept]
        expected[b, kept] = row[kept]
        if rest == "tail" and others:
            expected[b, others] = row[others].mean()
    if rest == "renormalise":
        expected = normalised(expected)
    result = label_ops.keep_top(labels, j, rest)
    assert result.width == j
    assert_stands_for(result, expected)
    if rest == "tail":
        np.testing.assert_allclose(result.mass().numpy(), labels.mass().numpy(), rtol=1e-6)
    again = label_ops.keep_top(result, j, rest)
    assert_stands_for(again, dense_rows(result), rtol=1e-6 if rest == "renormalise" else 0)


def test_equal_weights_keep_the_order_of_their_places():
    """Wide rows: a sort that is not stable still keeps the order of short ones."""
    classes = torch.randperm(600, generator=torch.Generator().manual_seed(0)).reshape(1, 600)
    labels = from_numpy(classes, np.full((1, 600), 1 / 600), [0], 600)
    assert torch.equal(label_ops.keep_top(labels, 90).classes, labels.classes[:, :90])
    assert label_ops.top1(labels).item() == classes[0, 0]


@given(sparse_labels(), st.data())
@some
def test_swap(labels, data):
    i = data.draw(st.integers(0, labels.width - 1))
    expected = dense_rows(labels)
    for b, row in enumerate(expected):
        order = listed_in_order(labels, b)
        if i >= len(order):
            continue
        start = order[i] + labels.num_classes // 2
        upwards = [(start + step) % labels.num_classes for step in range(labels.num_classes)]
        least = next((c for c in upwards if c not in order), order[-1])
        row[[order[i], least]] = row[[least, order[i]]]
    result = label_ops.swap(labels, i)
    assert result.width == labels.width
    assert_stands_for(result, expected, rtol=0)


def test_swapping_back():
    probs = torch.rand(50, 11, generator=torch.Generator().manual_seed(0))
    labels = SparseLabels.from_dense(probs)
    for i in (0, 3, 9):
        assert not torch.equal(label_ops.swap(labels, i).dense(), probs)
        assert torch.equal(label_ops.swap(label_ops.swap(labels, i), i).dense(), probs)
    assert torch.equal(label_ops.swap(labels, 10).dense(), probs)


def test_swapped_weight_does_not_gather_on_one_class():
    logits = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))
    swapped = label_ops.swap(TopKCodec(5, 100).encode(logits).sparse(), 0)
    assert label_ops.top1(swapped).bincount(minlength=100).max() < 60


@pytest.mark.parametrize("renormalise", [True, False])
@given(labels=sparse_labels(), data=st.data())
@some
def test_remove_class(renormalise, labels, data):
    c = data.draw(st.integers(0, labels.num_classes - 1))
    expected = dense_rows(labels)
    expected[:, c] = 0
    result = label_ops.remove_class(labels, c, renormalise)
    assert_stands_for(result, normalised(expected) if renormalise else expected)
    assert_stands_for(label_ops.remove_class(result, c, renormalise), dense_rows(result))


def test_nothing_is_left():
    alone = SparseLabels.hard(torch.tensor([1, 2]), 3)
    for result in (label_ops.remove_class(alone, 1), label_ops.remove_class(alone, 1, renormalise=False)):
        assert result.dense().tolist() == [[0, 0, 0], [0, 0, 1]]
        assert result.mass().tolist() == [0, 1]
        assert label_ops.smoothed_like(result).dense()[0].tolist() == [0, 0, 0]
        assert label_ops.keep_top(result, 1, "renormalise").mass().tolist() == [0, 1]


@given(sparse_labels(), st.data())
@some
def test_replace_by_hard(labels, data):
    rows = len(labels)
    targets = data.draw(st.lists(st.integers(0, labels.num_classes - 1), min_size=rows, max_size=rows))
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=rows, max_size=rows))
    expected = dense_rows(labels)
    for b in range(rows):
        if mask is None or mask[b]:
            expected[b] = np.arange(labels.num_classes) == targets[b]
    result = label_ops.replace_by_hard(
        labels, torch.tensor(targets, dtype=torch.int64), None if mask is None else torch.tensor(mask, dtype=torch.bool)
    )
    assert_stands_for(result, expected, rtol=0)


@given(sparse_labels())
@some
def test_smoothed_like(labels):
    result = label_ops.smoothed_like(labels)
    dense, smoothed = dense_rows(labels), dense_rows(result)
    result.check_values()
    assert result.width == 1
    np.testing.assert_allclose(smoothed.sum(1), dense.sum(1), rtol=1e-6)
    np.testing.assert_allclose(entropies(smoothed), entropies(dense), atol=3e-6)
    for row, top in zip(smoothed, label_ops.top1(labels).tolist(), strict=True):
        others = np.delete(row, top)
        assert np.ptp(others) == 0 if len(others) else True
        assert (others <= row[top] * (1 + 1e-6)).all()


@pytest.mark.parametrize("num_classes", [2, 10, 1000, 1 << 20])
def test_smoothing_reaches_every_entropy(num_classes):
    highest = math.log(num_classes)
    wanted = torch.tensor([0.0, 1e-30, 1e-9, 1e-3, 0.1, highest / 2, highest], dtype=torch.float64)
    t = structure._smoothing_of_entropy(wanted, num_classes)
    found = torch.special.entr(1 - t) + (num_classes - 1) * torch.special.entr(t / (num_classes - 1))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
    assert t[0] == 0 and bool((t[1:].diff() > 0).all())


def test_smoothing_of_smoothed_labels_is_itself():
    labels = from_numpy([[4]], [[0.7]], [0.3 / 9], 10)
    torch.testing.assert_close(label_ops.smoothed_like(labels).dense(), labels.dense())


def fisher_yates(seed: int, sample: int, count: int, size: int) -> list[int]:
    """The whole table, step by step, with words from the reference generator."""
    table = list(range(size))
    for j in range(count):
        other = j + (philox_words(seed, j, sample, 0, SHUFFLE_STREAM)[0] * (size - j) >> 32)
        table[j], table[other] = table[other], table[j]
    return table[:count]


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**62), max_size=4), st.integers(0, 8), st.integers(0, 60))
@some
def test_random_injection(seed, ids, count, more):
    found = label_ops.random_injection(seed, np.array(ids, dtype=np.int64), count, count + more, torch.device("cpu"))
    assert found.shape == (len(ids), count)
    assert found.tolist() == [fisher_yates(seed, sample, count, count + more) for sample in ids]


def test_beginnings_of_permutations_are_uniform():
    found = label_ops.random_injection(5, np.arange(24_000), 3, 4, torch.device("cpu"))
    counts = Counter(map(tuple, found.tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 3))
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 49.7  # chi-squared, 23 degrees, p = 0.001


@given(sparse_labels(), st.integers(0, 2**64 - 1), st.data())
@some
def test_shuffle_rest(labels, seed, data):
    ids = data.draw(st.lists(st.integers(0, 2**40), min_size=len(labels), max_size=len(labels)))
    dense, num_classes = dense_rows(labels), labels.num_classes
    expected = dense.copy()
    for b, row in enumerate(expected):
        order = listed_in_order(labels, b)
        row[:] = labels.rest[b].item()
        if order:
            top = order[0]
            row[top] = dense[b, top]
            numbers = fisher_yates(seed, ids[b], len(order) - 1, num_classes - 1)
            row[[x + (x >= top) for x in numbers]] = dense[b, order[1:]]
    result = label_ops.shuffle_rest(labels, torch.tensor(ids, dtype=torch.int64), seed)
    assert_stands_for(result, expected, rtol=0)
    assert np.array_equal(np.sort(expected, axis=1), np.sort(dense, axis=1))


def test_shuffling_depends_on_seed_and_id_alone():
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    labels = TopKCodec(8, 30).encode(logits).sparse()
    ids = np.array([3, 3, 9, 4, 0, 7])
    whole = label_ops.shuffle_rest(labels, ids, seed=1)
    rows = [5, 1, 2]
    part = label_ops.shuffle_rest(labels[rows], ids[rows].tolist(), seed=1)
    assert torch.equal(part.classes, whole.classes[rows])
    assert not torch.equal(label_ops.shuffle_rest(labels, ids, seed=2).classes, whole.classes)
    assert not torch.equal(label_ops.shuffle_rest(labels, ids + 1, seed=1).classes, whole.classes)
    longer = label_ops.shuffle_rest(TopKCodec(12, 30).encode(logits).sparse(), ids, seed=1)
    assert torch.equal(longer.classes[:, :8], whole.classes)


@st.composite
def several(draw, count: int) -> list[SparseLabels]:
    rows, num_classes = draw(st.integers(0, 3)), draw(st.integers(1, 8))
    return [draw(sparse_labels(rows=rows, num_classes=num_classes)) for _ in range(count)]


@given(several(2), st.data())
@some
def test_mix(pair, data):
    a, b = pair
    weight = data.draw(st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=len(a), max_size=len(a)))
    result = label_ops.mix(a, b, torch.tensor(weight, dtype=torch.float64) if isinstance(weight, list) else weight)
    column = np.asarray(weight).reshape(-1, 1)
    assert_stands_for(result, column * dense_rows(a) + (1 - column) * dense_rows(b), atol=1e-40)
    assert result.width == min(a.width + b.width, a.num_classes)
    mass = np.asarray(weight) * a.mass().numpy() + (1 - np.asarray(weight)) * b.mass().numpy()
    np.testing.assert_allclose(result.mass().numpy(), mass, rtol=1e-6, atol=1e-40)


def test_a_row_that_lists_all_classes_has_no_rest():
    """Nothing reads it then; but a loss computed relative to the rest would lose digits to a large one."""
    labels = from_numpy([[0, 1], [2, 1]], [[0.5, 0.2], [0.4, 0.3]], [0.3, 0.3], 3)
    mixed = label_ops.mix(labels, labels[[1, 0]], 0.5)
    assert mixed.width == 3 and mixed.rest.tolist() == [0, 0]
    full = from_numpy([[0, 1], [1, -1]], [[0.5, 0.2], [0.4, 0]], [9, 0.25], 2)
    assert label_ops.swap(full, 0).rest.tolist() == [0, 0.25]


@given(several(2))
@some
def test_mixing_with_weight_one_or_with_itself(pair):
    a, b = pair
    for result in (label_ops.mix(a, b, 1.0), label_ops.mix(b, a, torch.tensor(0)), label_ops.mix(a, a, 0.25)):
        assert_stands_for(result, dense_rows(a), rtol=1e-7)
    assert label_ops.mix(a, a, 0.25).width == min(2 * a.width, a.num_classes)


@given(st.integers(1, 4).flatmap(several), st.data())
@some
def test_average(labels, data):
    count = len(labels)
    weights = data.draw(st.none() | st.lists(WEIGHTS, min_size=count, max_size=count).filter(any))
    shares = np.ones(count) if weights is None else np.asarray(weights)
    expected = np.tensordot(shares / shares.sum(), np.stack([dense_rows(label) for label in labels]), axes=1)
    assert_stands_for(label_ops.average(labels, weights), expected)


@st.composite
def teachers(draw):
    """Stored labels of up to three teachers for the same rows, with probabilities of zero and confident rows."""
    rows, num_classes = draw(st.integers(0, 3)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    labels = []
    for _ in range(draw(st.integers(1, 3))):
        logits = torch.randn(rows, num_classes, generator=generator) * draw(st.sampled_from([0.0, 1.0, 8.0]))
        for b in range(rows):
            if draw(st.integers(0, 4)) == 0:
                logits[b, 1:] = logits[b, 1:].masked_fill(
                    torch.rand(num_classes - 1, generator=generator) < 0.5, -torch.inf
                )
        k = draw(st.sampled_from([num_classes]) | st.integers(1, num_classes))
        labels.append(TopKCodec(k, num_classes).encode(logits))
    return labels


@given(teachers(), st.sampled_from([0.5, 1.0, 1.7, 5.0]), st.data())
@some
def test_average_logits(labels, temperature, data):
    count = len(labels)
    weights = data.draw(st.none() | st.lists(WEIGHTS, min_size=count, max_size=count).filter(any))
    shares = np.ones(count) if weights is None else np.asarray(weights)
    logs = np.zeros((len(labels[0]), labels[0].num_classes))
    for label, share in zip(labels, shares / shares.sum(), strict=True):
        dense = dense_rows(label.sparse(temperature))
        if share:
            logs += share * np.log(dense, where=dense > 0, out=np.full_like(dense, -np.inf))
    top = logs.max(1, keepdims=True)
    expected = normalised(np.exp(logs - np.where(np.isinf(top), 0, top)))
    assert_stands_for(label_ops.average_logits(labels, temperature, weights), expected, rtol=1e-5)


def test_averaged_logits_are_exact_for_all_classes():
    """On logits that codes hold exactly (steps of 1/8 nat), at a temperature where probabilities underflow too."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randint(-120, 120, (20, 40), generator=generator) / 8 for _ in range(3)]
    codec = TopKCodec(40, 40)
    for temperature in (0.1, 1.0, 4.0):
        expected = (sum(each.double() for each in logits) / 3 / temperature).softmax(1)
        found = label_ops.average_logits([codec.encode(each) for each in logits], temperature)
        torch.testing.assert_close(found.dense(), expected.float(), rtol=1e-5, atol=1e-30)


# Codes of listed classes end at 31.75 nats, those of the tail do not.
@pytest.mark.parametrize(("gap", "k"), [(20, 1), (20, 2), (31.75, 5), (31.75, 1), (100, 1), (220, 1)])
def test_averaged_logits_of_confident_teachers(gap, k):
    """Probabilities of the tail underflow in float32, their logarithms do not."""
    logits = torch.full((2, 1, 5), -float(gap))
    logits[0, 0, 0] = logits[1, 0, 1] = 0
    for temperature in (0.25, 1.0) if k == 1 else (1.0,):
        found = label_ops.average_logits([TopKCodec(k, 5).encode(each) for each in logits], temperature)
        expected = (logits.double().mean(0) / temperature).softmax(1)
        torch.testing.assert_close(found.dense().double()[0, :2], expected[0, :2], rtol=1e-2, atol=0)


def test_teachers_that_exclude_each_other_leave_nothing():
    inf = torch.inf
    codec = TopKCodec(3, 3)
    labels = [codec.encode(torch.tensor([[0.0, -inf, -inf]])), codec.encode(torch.tensor([[-inf, 0.0, 1.0]]))]
    assert label_ops.average_logits(labels).dense().tolist() == [[0, 0, 0]]
    assert label_ops.average_logits(labels, weights=[1, 0]).dense().tolist() == [[1, 0, 0]]


OPERATIONS = {
    "renormalise": label_ops.renormalise,
    "keep_top": lambda labels: label_ops.keep_top(labels, 2, "tail"),
    "swap": lambda labels: label_ops.swap(labels, 1),
    "remove_class": lambda labels: label_ops.remove_class(labels, 3),
    "smoothed_like": label_ops.smoothed_like,
    "average": lambda labels: label_ops.average([labels, label_ops.swap(labels, 0)]),
    "mix": lambda labels: label_ops.mix(
        labels, SparseLabels.uniform(len(labels), labels.num_classes, labels.device), 0.3
    ),
    "replace_by_hard": lambda labels: label_ops.replace_by_hard(labels, label_ops.top1(labels)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_does_not_depend_on_its_batch(name):
    labels = TopKCodec(8, 30).encode(torch.randn(7, 30, generator=torch.Generator().manual_seed(0))).sparse()
    whole, part = OPERATIONS[name](labels), OPERATIONS[name](labels[[6, 2]])
    assert torch.equal(part.dense(), whole.dense()[[6, 2]])
    assert torch.equal(part.classes, whole.classes[[6, 2]])


@pytest.mark.parametrize("name", OPERATIONS)
def test_labels_are_not_changed_in_place(name):
    labels = TopKCodec(30, 30).encode(torch.randn(7, 30, generator=torch.Generator().manual_seed(0))).sparse()
    before = labels.to("cpu")._map(torch.clone)
    OPERATIONS[name](labels)
    assert torch.equal(labels.classes, before.classes) and torch.equal(labels.probs, before.probs)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*OPERATIONS, "shuffle_rest", "average_logits"])
@pytest.mark.parametrize("k", [8, 30])
def test_on_a_gpu(name, k):
    operations = OPERATIONS | {
        "shuffle_rest": lambda labels: label_ops.shuffle_rest(labels, range(len(labels))),
        "average_logits": lambda labels: label_ops.average_logits([labels, labels[list(range(6, -1, -1))]], 2.0),
    }
    stored = TopKCodec(k, 30).encode(torch.randn(7, 30, generator=torch.Generator().manual_seed(0)))
    labels = stored if name == "average_logits" else stored.sparse()
    here, there = operations[name](labels), operations[name](labels.to("cuda"))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.dense().cpu(), here.dense(), rtol=1e-6, atol=1e-12)


def stored(rows: int = 2, num_classes: int = 6):
    return TopKCodec(3, num_classes).encode(torch.zeros(rows, num_classes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: label_ops.keep_top(stored(), 1), "labels are TopKLabels.*call labels.sparse"),
        (lambda s: label_ops.mix(s, stored(), 0.5), "labels are TopKLabels"),
        (lambda s: label_ops.entropy(s.dense()), "labels are Tensor, expected SparseLabels"),
        (lambda s: label_ops.keep_top(s, 0), "j is 0, expected 1 to 6"),
        (lambda s: label_ops.keep_top(s, 4), "j is 4, but these labels list 3 of 6 classes.*give at most 3"),
        (lambda s: label_ops.keep_top(s, 1.5), "j is 1.5, expected an integer"),
        (lambda s: label_ops.keep_top(s, 1, "drop"), "rest is 'drop', expected 'zero', 'renormalise' or 'tail'"),
        (lambda s: label_ops.swap(s, 6), "i is 6, expected 0 to 5"),
        (lambda s: label_ops.swap(s, 3), "i is 3, but these labels list 3 of 6 classes.*give at most 2"),
        (lambda s: label_ops.swap(s, -1), "i is -1"),
        (lambda s: label_ops.remove_class(s, 6), "c is 6, expected 0 to 5"),
        (lambda s: label_ops.replace_by_hard(s, torch.tensor([0, 6])), "targets lie between 0 and 6"),
        (lambda s: label_ops.replace_by_hard(s, torch.tensor([0])), r"targets are \(1,\) on cpu, expected \(2,\)"),
        (
            lambda s: label_ops.replace_by_hard(s, torch.tensor([0, 1]), torch.ones(3, dtype=torch.bool)),
            r"mask are \(3,\)",
        ),
        (lambda s: label_ops.replace_by_hard(s, torch.tensor([0, 1]), torch.ones(2)), "mask has dtype torch.float32"),
        (lambda s: label_ops.shuffle_rest(s, [1]), r"ids are int64 \(1,\), expected 2 non-negative integers"),
        (lambda s: label_ops.shuffle_rest(s, [1, -2]), "ids are int64"),
        (lambda s: label_ops.shuffle_rest(s, torch.tensor([0.5, 1])), "ids are float32"),
        (lambda s: label_ops.shuffle_rest(s, [1, 2], seed=-1), "seed is -1"),
        (lambda s: label_ops.mix(s, s, 1.5), "weight is 1.5, expected 0 to 1"),
        (lambda s: label_ops.mix(s, s, float("nan")), "weight is nan"),
        (lambda s: label_ops.mix(s, s, torch.ones(3)), r"weight is torch.float32 \(3,\) on cpu"),
        (lambda s: label_ops.mix(s, s, torch.ones(2, dtype=torch.int64)), "weight is torch.int64"),
        (lambda s: label_ops.mix(s, s[[0]], 0.5), "labels are 1 rows of 6 classes on cpu, others 2"),
        (lambda s: label_ops.average([]), "there are no labels to average"),
        (lambda s: label_ops.average([s, stored(2, 7).sparse()]), "labels are 2 rows of 7 classes"),
        (lambda s: label_ops.average([s], [0.0]), r"weights are \[0.0\], expected 1 numbers of 0 or more, not all 0"),
        (lambda s: label_ops.average([s], [1, 2]), "weights are .* expected 1 numbers"),
        (lambda s: label_ops.average([s, s], [1, -1]), "weights are"),
        (lambda s: label_ops.average_logits([s]), "labels are SparseLabels, expected TopKLabels"),
        (lambda s: label_ops.average_logits([stored()], 0), "temperature is 0"),
        (lambda s: label_ops.average_logits([stored(), stored(3)]), "labels are 3 rows"),
    ],
)
def test_what_cannot_be_done(call, message):
    with pytest.raises(InputError, match=message):
        call(stored().sparse())


def test_no_operation_makes_a_tensor_of_all_classes():
    """With 2^31 - 1 classes, [B, C] would take 8 GB or more."""
    num_classes = 2**31 - 1
    rows = np.array([[0, 1, 5, num_classes - 1], [num_classes // 2, 3, -1, 2], [9, 8, 7, 6]])
    labels = from_numpy(rows, np.where(rows < 0, 0, [0.4, 0.3, 0.2, 0.05]), [1e-11, 2e-11, 0], num_classes)
    for operation in OPERATIONS.values():
        operation(labels).check_values()
    shuffled = label_ops.shuffle_rest(labels, [1, 2, 3])
    shuffled.check_values()
    assert shuffled.classes.max() > 1 << 28
    assert label_ops.swap(labels, 0).classes[:, 0].tolist() == [num_classes // 2, num_classes - 1, num_classes // 2 + 9]
    assert torch.equal(label_ops.keep_top(labels, 4, "tail").rest, labels.rest)
    np.testing.assert_allclose(labels.mass(), label_ops.smoothed_like(labels).mass(), rtol=1e-6)
