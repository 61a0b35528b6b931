"""Labels of a batch that stay in their plane until somebody reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.store.plane import LabelPlane


@pytest.fixture
def labels() -> TopKLabels:
    return TopKCodec(k=4, num_classes=10).encode(torch.randn(30, 10, generator=torch.Generator().manual_seed(0)) * 3)


ROWS = torch.tensor([7, 0, 29, 7])


def parts(labels: TopKLabels) -> list[torch.Tensor]:
    return [labels.classes.to(torch.int32), labels.codes, labels.tail.to(torch.int32)]


def gathered(labels: TopKLabels) -> bool:
    return "_gathered" in vars(labels)


def test_what_it_says_of_itself_needs_no_gather(labels):
    batch = labels.take(ROWS)
    assert (len(batch), batch.k, batch.num_classes, batch.device) == (4, 4, 10, torch.device("cpu"))
    assert batch.to("cpu") is batch
    assert not gathered(batch)


def test_equals_the_gathered_labels(labels):
    batch, expected = labels.take(ROWS), labels[ROWS]
    for found, wanted in zip(parts(batch), parts(expected), strict=True):
        assert torch.equal(found, wanted)
    assert gathered(batch)
    assert torch.equal(batch.dense(2.0), expected.dense(2.0))
    assert torch.equal(batch.dense(tail="zero"), expected.dense(tail="zero"))
    for found, wanted in zip(batch.probabilities(0.5), expected.probabilities(0.5), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(batch.sparse(3.0).dense(), expected.sparse(3.0).dense())


def test_dense_reads_the_plane(labels):
    batch = labels.take(ROWS)
    batch.dense()
    assert not gathered(batch)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 1], np.array([3]), torch.tensor([True, False, True, False]), []])
def test_rows_of_rows_are_rows_of_the_plane(labels, rows):
    batch = labels.take(ROWS)
    some = batch[rows]
    assert some.plane.codes is labels.codes and not gathered(batch) and not gathered(some)
    for found, wanted in zip(parts(some), parts(labels[ROWS][rows]), strict=True):
        assert torch.equal(found, wanted)


def test_wrong_rows(labels):
    with pytest.raises(InputError, match=r"not labels: rows have dtype torch.int32, expected torch.int64"):
        labels.take(ROWS.int())
    with pytest.raises(InputError, match=r"rows have shape \(2, 2\), expected \[B\]"):
        labels.take(ROWS.reshape(2, 2))
    with pytest.raises(InputError, match="rows are on meta and codes on cpu, expected one device"):
        labels.take(ROWS.to("meta"))
    with pytest.raises(ValueError, match="1 rows are outside"):
        labels.take(torch.tensor([30])).dense()
    for outside in (30, -1):
        with pytest.raises(IndexError):
            _ = labels.take(torch.tensor([outside])).codes


def test_a_plane_gives_rows_of_itself(labels):
    arrays = {"classes": labels.classes.numpy(), "codes": labels.codes.numpy(), "tail": labels.tail.numpy()}
    ids = np.arange(100, 160, 2)
    plane = LabelPlane.from_numpy(arrays, TopKCodec(labels.k, 10), ids, num_samples=200)
    batch = plane[[102, 158, 100]]
    assert batch.rows is not None and batch.rows.tolist() == [1, 29, 0]
    assert all(a is b for a, b in zip(batch.plane, plane.labels.plane, strict=True)) and not gathered(batch)
    with pytest.raises(MissingLabelsError, match="sample 101 is not labelled"):
        plane[[100, 101]]
    for ids in (torch.ones(30, dtype=torch.bool), np.ones(30, bool), [3.7], torch.tensor([3.0]), [True]):
        with pytest.raises(InputError, match=r"sample ids have dtype torch.*expected integers"):
            plane[ids]
    assert len(plane[[]]) == 0 and plane[np.array([102], np.uint16)].rows.tolist() == [1]
    everything = LabelPlane.from_numpy(arrays, TopKCodec(labels.k, 10), np.arange(30), num_samples=30)
    assert everything.take(ROWS).rows is ROWS


def test_a_plane_has_a_row_for_each_sample(labels):
    with pytest.raises(InputError, match="expected one for each of the file's 99 samples"):
        LabelPlane(labels, None, 99)
    with pytest.raises(InputError, match="a plane has 3 rows, expected one for each of the file's 4 samples"):
        LabelPlane(labels, torch.zeros(3, dtype=torch.int32), 4)


@pytest.mark.parametrize("as_given", [lambda ids: ids, lambda ids: ids.numpy()])
def test_labels_stay_those_of_the_ids_when_the_caller_takes_their_memory_back(labels, as_given):
    plane, ids = LabelPlane(labels, None, len(labels)), torch.tensor([1, 0])
    taken = plane[as_given(ids)]
    ids.zero_()
    assert torch.equal(taken.codes, labels.codes[[1, 0]])
