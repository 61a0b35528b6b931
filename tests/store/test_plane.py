"""PlaneLabels: labels of a batch that stay in their plane until somebody reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import PlaneLabels, TopKLabels
from fastlabel.store.plane import LabelPlane


@pytest.fixture
def labels() -> TopKLabels:
    return TopKCodec(k=4, num_classes=10).encode(torch.randn(30, 10, generator=torch.Generator().manual_seed(0)) * 3)


ROWS = torch.tensor([7, 0, 29, 7])


def parts(labels: TopKLabels) -> list[torch.Tensor]:
    return [labels.classes.to(torch.int32), labels.codes, labels.tail.to(torch.int32)]


def gathered(labels: PlaneLabels) -> set[str]:
    return {"classes", "codes", "tail"} & vars(labels).keys()


def test_what_it_says_of_itself_needs_no_gather(labels):
    batch = PlaneLabels(labels, ROWS)
    assert isinstance(batch, TopKLabels)
    assert (len(batch), batch.k, batch.num_classes, batch.device) == (4, 4, 10, torch.device("cpu"))
    assert batch.to("cpu") is batch
    assert not gathered(batch)


def test_equals_the_gathered_labels(labels):
    batch, expected = PlaneLabels(labels, ROWS), labels[ROWS]
    for found, wanted in zip(parts(batch), parts(expected), strict=True):
        assert torch.equal(found, wanted)
    assert gathered(batch) == {"classes", "codes", "tail"}
    assert torch.equal(batch.dense(2.0), expected.dense(2.0))
    assert torch.equal(batch.dense(tail="zero"), expected.dense(tail="zero"))
    for found, wanted in zip(batch.probabilities(0.5), expected.probabilities(0.5), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(batch.sparse(3.0).dense(), expected.sparse(3.0).dense())


def test_dense_reads_the_plane(labels):
    batch = PlaneLabels(labels, ROWS)
    batch.dense()
    assert not gathered(batch)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 1], np.array([3]), torch.tensor([True, False, True, False]), []])
def test_rows_of_rows_are_rows_of_the_plane(labels, rows):
    batch = PlaneLabels(labels, ROWS)
    some = batch[rows]
    assert isinstance(some, PlaneLabels) and some.source is labels and not gathered(batch)
    for found, wanted in zip(parts(some), parts(labels[ROWS][rows]), strict=True):
        assert torch.equal(found, wanted)


def test_wrong_rows(labels):
    with pytest.raises(InputError, match=r"rows are torch.int32 \(4,\), expected torch.int64 \[B\]"):
        PlaneLabels(labels, ROWS.int())
    with pytest.raises(InputError, match="rows are on meta and labels on cpu"):
        PlaneLabels(labels, ROWS.to("meta"))
    with pytest.raises(ValueError, match="1 rows are outside"):
        PlaneLabels(labels, torch.tensor([30])).dense()


def test_a_plane_gives_rows_of_itself(labels):
    arrays = {"classes": labels.classes.numpy(), "codes": labels.codes.numpy(), "tail": labels.tail.numpy()}
    ids = np.arange(100, 160, 2)
    plane = LabelPlane.from_numpy(arrays, 10, ids, num_samples=200)
    batch = plane[[102, 158, 100]]
    assert isinstance(batch, PlaneLabels) and batch.rows.tolist() == [1, 29, 0]
    assert batch.source is plane.labels and not gathered(batch)
    with pytest.raises(MissingLabelsError, match="sample 101 is not labelled"):
        plane[[100, 101]]
    for ids in (torch.ones(30, dtype=torch.bool), np.ones(30, bool), [3.7], torch.tensor([3.0]), [True]):
        with pytest.raises(InputError, match=r"sample ids have dtype torch.*expected integers"):
            plane[ids]
    assert len(plane[[]]) == 0 and plane[np.array([102], np.uint16)].rows.tolist() == [1]
    everything = LabelPlane.from_numpy(arrays, 10, np.arange(30), num_samples=30)
    assert everything.take(ROWS).rows is ROWS
