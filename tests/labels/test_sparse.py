"""SparseLabels: checks, rows, construction, lookups, and what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.sparse import MAX_CLASSES, SparseLabels
from tests.labels.sparse_cases import assert_stands_for, dense_rows, from_numpy, sparse_labels


def example() -> SparseLabels:
    return from_numpy([[3, -1, 0], [-1, -1, -1]], [[0.5, 0, 0.25], [0, 0, 0]], [0.125, 0.2], 5)


def test_properties():
    labels = example()
    assert (len(labels), labels.width, labels.device.type) == (2, 3, "cpu")
    assert labels.dense().tolist() == [[0.25, 0.125, 0.125, 0.5, 0.125], [pytest.approx(0.2)] * 5]
    assert labels.unlisted().tolist() == [3, 5]
    assert labels.mass().tolist() == [1.125, pytest.approx(1, rel=1e-7)]
    assert labels.kept_mass().tolist() == [0.75, 0]
    assert torch.equal(labels.to("cpu").dense(), labels.dense())
    assert labels.to("meta").device.type == "meta"


@given(sparse_labels())
@settings(max_examples=60, deadline=None)
def test_dense_mass_and_lookups_against_rows(labels):
    assert_stands_for(labels, dense_rows(labels), rtol=0)
    np.testing.assert_allclose(labels.mass().numpy(), dense_rows(labels).sum(1), rtol=1e-14)
    everything = torch.arange(labels.num_classes).repeat(len(labels), 1)
    assert torch.equal(labels.weights_of(everything), labels.dense())
    assert torch.equal(labels.weights_of(labels.classes), labels.probs)


def test_lookups_of_some_classes_and_of_empty_places():
    weights = example().weights_of(torch.tensor([[4, -1, 0, 0], [1, 2, -1, -1]]))
    assert weights.tolist() == [[0.125, 0, 0.25, 0.25], [pytest.approx(0.2), pytest.approx(0.2), 0, 0]]


@pytest.mark.parametrize("rows", [[1, 0, 0], np.array([1, 0, 0]), torch.tensor([1, 0, 0]), [-1, 0, -2]])
def test_rows(rows):
    assert torch.equal(example()[rows].dense(), example().dense()[[1, 0, 0]])


def test_slices_masks_and_nothing():
    assert torch.equal(example()[1:].dense(), example().dense()[1:])
    assert torch.equal(example()[np.array([False, True])].dense(), example().dense()[1:])
    assert example()[[]].dense().shape == (0, 5)
    with pytest.raises(InputError, match="rows are int"):
        example()[0]


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 4), st.integers(1, 9)),
        elements=st.sampled_from([0.0, 0.1, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    ),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_from_dense(probs, data):
    num_classes = probs.shape[1]
    assert_stands_for(SparseLabels.from_dense(torch.tensor(probs)), probs.astype(np.float32), rtol=0)
    k = data.draw(st.integers(1, num_classes))
    labels = SparseLabels.from_dense(torch.tensor(probs), k)
    expected = probs.copy()
    for row in expected:
        order = sorted(range(num_classes), key=lambda c: (-row[c], c))
        if k < num_classes:
            row[order[k:]] = row[order[k:]].mean()
    assert labels.width == k
    assert_stands_for(labels, expected, rtol=1e-6, atol=1e-44)


def test_from_dense_breaks_ties_by_the_lower_class():
    assert SparseLabels.from_dense(torch.full((1, 500), 0.002), 4).classes.tolist() == [[0, 1, 2, 3]]


def test_hard_and_uniform():
    hard = SparseLabels.hard(torch.tensor([2, 0]), 3)
    assert hard.dense().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert SparseLabels.hard(torch.empty(0, dtype=torch.int64), 3).dense().shape == (0, 3)
    assert torch.equal(SparseLabels.uniform(2, 7).dense(), torch.full((2, 7), 1 / 7))
    assert len(SparseLabels.uniform(0, 7)) == 0


@pytest.mark.parametrize("k", [1, 4, 300])
def test_stored_labels_stand_for_the_same(k):
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1)) * 4
    logits[0, 7] = -torch.inf
    labels = TopKCodec(k, 300).encode(logits)
    for temperature in (0.5, 1.0, 3.0):
        sparse = labels.sparse(temperature)
        assert sparse.width == k
        assert torch.equal(sparse.dense(), labels.dense(temperature))
        torch.testing.assert_close(sparse.mass(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(labels[1:3].sparse(2.0).dense(), labels.sparse(2.0)[1:3].dense())
    with pytest.raises(InputError, match="temperature is 0"):
        labels.sparse(0)


def test_rows_of_a_plane():
    plane = TopKCodec(4, 30).encode(torch.randn(9, 30, generator=torch.Generator().manual_seed(1)))
    rows = torch.tensor([8, 2, 2])
    assert torch.equal(plane.take(rows).sparse(2.0).dense(), plane.dense(2.0)[rows])


def test_stored_labels_of_many_classes():
    logits = torch.randn(2, 70000, generator=torch.Generator().manual_seed(1)) * 4
    labels = TopKCodec(3, 70000).encode(logits)
    assert torch.equal(labels.sparse().dense(), labels.dense())


def test_there_is_no_temperature_for_sparse_labels():
    """Edited labels are no logits any more; docs/labels.md says why."""
    assert not hasattr(example(), "temper")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": torch.zeros(2, 3, dtype=torch.int64)}, "classes have dtype torch.int64, expected torch.int32"),
        ({"probs": torch.zeros(2, 3, dtype=torch.float64)}, "probs have dtype torch.float64, expected torch.float32"),
        ({"rest": torch.zeros(2, dtype=torch.float16)}, "rest have dtype torch.float16"),
        ({"classes": torch.zeros(2, dtype=torch.int32)}, r"classes have shape \(2,\), expected \[B, M\]"),
        ({"classes": torch.zeros(2, 0, dtype=torch.int32)}, r"classes have shape \(2, 0\)"),
        ({"num_classes": 2}, "expected .* M from 1 to the 2 classes"),
        ({"probs": torch.zeros(2, 2)}, r"probs have shape \(2, 2\), expected \(2, 3\)"),
        ({"rest": torch.zeros(3)}, r"rest have shape \(3,\), expected \(2,\)"),
        ({"rest": torch.zeros(2, device="meta")}, "rest are on meta and classes on cpu, expected one device"),
        ({"num_classes": 0}, "num_classes is 0, expected 1 to"),
        ({"num_classes": MAX_CLASSES}, f"num_classes is {MAX_CLASSES}"),
    ],
)
def test_tensors_that_are_not_sparse_labels(change, message):
    parts = {"classes": example().classes, "probs": example().probs, "rest": example().rest, "num_classes": 5}
    with pytest.raises(InputError, match=message):
        SparseLabels(**(parts | change))


@pytest.mark.parametrize(
    ("classes", "probs", "rest", "message"),
    [
        ([[0, 5]], [[0.1, 0.1]], [0], r"class ids lie outside of -1 \(empty\) to 4"),
        ([[0, -2]], [[0.1, 0.0]], [0], "class ids lie outside"),
        ([[3, 3]], [[0.1, 0.1]], [0], "lists a class twice"),
        ([[0, -1]], [[0.1, 0.1]], [0], r"empty place \(class -1\) has a weight"),
        ([[0, 1]], [[0.1, -0.1]], [0], "probs hold negative numbers"),
        ([[0, 1]], [[0.1, np.nan]], [0], "probs hold"),
        ([[0, 1]], [[0.1, 0.1]], [np.inf], "rest hold"),
    ],
)
def test_values_that_are_not_labels(classes, probs, rest, message):
    with pytest.raises(InputError, match=message):
        from_numpy(classes, probs, rest, 5).check_values()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SparseLabels.from_dense(torch.tensor([[-0.1, 1.1]])), "probs hold negative numbers"),
        (lambda: SparseLabels.from_dense(torch.tensor([[0.1, torch.nan]])), "probs hold"),
        (lambda: SparseLabels.from_dense(torch.tensor([0.1])), r"probs are torch.float32 \(1,\), expected .* \[B, C\]"),
        (lambda: SparseLabels.from_dense(torch.tensor([[1]])), "probs are torch.int64"),
        (lambda: SparseLabels.from_dense(torch.ones(1, 3), 4), "k is 4, expected 1 to the 3 classes"),
        (lambda: SparseLabels.hard(torch.tensor([0, 3]), 3), "targets lie between 0 and 3, expected 0 to 2"),
        (lambda: SparseLabels.hard(torch.tensor([-1]), 3), "targets lie between -1 and -1"),
        (lambda: SparseLabels.hard(torch.tensor([0.0]), 3), r"targets are torch.float32 \(1,\), expected integers"),
        (lambda: SparseLabels.uniform(2, 0), "num_classes is 0"),
    ],
)
def test_what_cannot_become_labels(call, message):
    with pytest.raises(InputError, match=message):
        call()
