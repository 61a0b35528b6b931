"""TopKLabels: checks, rows, devices, probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels


@pytest.fixture(params=[10, 70000])
def labels(request):
    logits = torch.randn(6, request.param, generator=torch.Generator().manual_seed(0)) * 3
    return TopKCodec(k=4, num_classes=request.param).encode(logits)


def same(a: TopKLabels, b: TopKLabels) -> bool:
    return a.num_classes == b.num_classes and all(
        x.dtype == y.dtype and x.tolist() == y.tolist()
        for x, y in ((a.classes, b.classes), (a.codes, b.codes), (a.tail, b.tail))
    )


def test_properties(labels):
    assert (len(labels), labels.k, labels.device.type) == (6, 4, "cpu")
    assert same(labels.to("cpu"), labels)


@pytest.mark.parametrize(
    "rows",
    [
        [4, 1, 1],
        np.array([4, 1, 1]),
        np.array([4, 1, 1], dtype=np.uint64),
        np.array([-2, 1, -5], dtype=np.int32),
        torch.tensor([4, 1, 1]),
    ],
)
def test_rows(labels, rows):
    taken = labels[rows]
    assert taken.classes.dtype == labels.classes.dtype
    assert taken.classes.tolist() == [labels.classes.tolist()[i] for i in (4, 1, 1)]
    assert taken.codes.tolist() == [labels.codes.tolist()[i] for i in (4, 1, 1)]
    assert taken.tail.tolist() == [labels.tail.tolist()[i] for i in (4, 1, 1)]


def test_slices_masks_and_nothing(labels):
    mask = np.array([False, True, False, True, False, False])
    assert same(labels[1:4:2], labels[[1, 3]])
    assert same(labels[mask], labels[[1, 3]])
    assert same(labels[torch.from_numpy(mask)], labels[[1, 3]])
    assert len(labels[[]]) == 0
    assert labels[[]].dense().shape == (0, labels.num_classes)


def test_read_only_rows(labels):
    rows = np.array([3, 2])
    rows.flags.writeable = False
    assert same(labels[rows], labels[[3, 2]])


@pytest.mark.parametrize("rows", [2, np.array([0.5]), np.array([[1]]), "ab"])
def test_rows_of_another_kind(labels, rows):
    with pytest.raises(InputError, match="rows"):
        labels[rows]


def test_dense_of_rows_equals_rows_of_dense(labels):
    assert torch.equal(labels[[5, 0]].dense(2.0), labels.dense(2.0)[[5, 0]])


def test_probabilities_agree_with_dense(labels):
    probs_BK, tail_B = labels.probabilities(2.0)
    dense = labels.dense(2.0)
    assert probs_BK.shape == (6, 4) and tail_B.shape == (6,)
    torch.testing.assert_close(dense.topk(4).values, probs_BK, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dense.amin(1), tail_B, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dense.gather(1, labels.classes.to(torch.int64)), probs_BK, rtol=1e-6, atol=1e-7)


def test_tails_of_dense(labels):
    kept = torch.zeros_like(labels.dense(), dtype=torch.bool).scatter_(1, labels.classes.to(torch.int64), True)
    uniform, renormalised, zeroed = (labels.dense(2.0, tail) for tail in ("uniform", "renormalise", "zero"))
    assert torch.equal(zeroed, uniform.where(kept, 0.0))
    torch.testing.assert_close(renormalised, zeroed / zeroed.sum(1, keepdim=True))
    with pytest.raises(InputError, match="tail is 'none', expected one of 'uniform', 'renormalise', 'zero'"):
        labels.dense(tail="none")


def test_temperature_is_checked(labels):
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="temperature is"):
            labels.dense(temperature)
        with pytest.raises(InputError, match="temperature is"):
            labels.probabilities(temperature)


@pytest.mark.slow
def test_a_temperature_that_changes_under_torch_compile(labels):
    def mass(temperature):
        return labels.dense(temperature).sum(1)

    compiled = torch.compile(mass, fullgraph=True, backend="aot_eager")
    for temperature in (1.0, 1.5, 2.0, 2.5):
        torch.testing.assert_close(compiled(temperature), torch.ones(6), rtol=0, atol=1e-5)


def test_tensors_that_are_not_labels():
    classes = torch.zeros(3, 2, dtype=torch.uint16)
    codes = torch.zeros(3, 2, dtype=torch.uint8)
    tail = torch.zeros(3, 2, dtype=torch.uint16)
    TopKLabels(classes, codes, tail, 10)
    for arguments, message in [
        ((classes, codes, tail, 1), "K=2 classes, more than the 1"),
        ((classes, codes, tail, 70000), "uint32"),
        ((classes[:2], codes, tail, 10), r"classes have shape \(2, 2\)"),
        ((classes, codes[0], tail, 10), r"codes have shape \(2,\)"),
        ((classes, codes, tail[:, :1], 10), r"tail has shape \(3, 1\)"),
        ((classes, codes, codes, 10), "tail has dtype"),
        ((classes, codes, tail.to("meta"), 10), "expected one device"),
    ]:
        with pytest.raises(InputError, match=f"not labels: .*{message}"):
            TopKLabels(*arguments)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_entropy_is_that_of_the_dense_labels(labels, temperature):
    probs = labels.dense(temperature).double()
    wanted = -(probs * probs.log()).sum(1)
    torch.testing.assert_close(labels.entropy(temperature), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="temperature"):
        labels.entropy(0)


def test_topk_accuracy(labels):
    kept = labels.dense().topk(4).indices
    assert labels.topk_accuracy(labels.classes[:, 0].to(torch.int64)) == 1
    other = torch.tensor([int(c) + 1 if int(c) + 1 < labels.num_classes else 0 for c in kept[:, 0]])
    wanted = [(row[:3] == target).any().item() for row, target in zip(kept, other, strict=True)]
    assert labels.topk_accuracy(other, 3) == pytest.approx(sum(wanted) / 6)
    third = labels.classes[:, 2].to(torch.int64)
    assert (labels.topk_accuracy(third, 2), labels.topk_accuracy(third, 3)) == (0, 1)
    half = torch.where(torch.arange(6) < 3, labels.classes[:, 1].to(torch.int64), third)
    assert labels.topk_accuracy(half, 2) == 0.5
    for targets, k in ((third, 5), (third, 0), (third[:2], 1), (third.float(), 1), (third + labels.num_classes, 1)):
        with pytest.raises(InputError):
            labels.topk_accuracy(targets, k)
