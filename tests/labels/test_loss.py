"""The public soft cross-entropy: both forms of labels, planes, mixtures, torch.compile, and its error messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.loss import soft_cross_entropy
from fastlabel.labels.sparse import SparseLabels


@pytest.fixture
def labels():
    logits = torch.randn(41, 10, generator=torch.Generator().manual_seed(0)) * 3
    return TopKCodec(k=4, num_classes=10).encode(logits)


@pytest.fixture
def logits():
    return torch.randn(41, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_equals_cross_entropy_against_dense(labels, logits):
    expected = F.cross_entropy(logits / 3.0, labels.dense(2.0).double())
    loss = soft_cross_entropy(logits, labels, label_temperature=2.0, student_temperature=3.0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_sparse_labels_equal_their_dense_form(labels, logits):
    sparse = labels.sparse(2.0)
    loss = soft_cross_entropy(logits, sparse, student_temperature=3.0)
    torch.testing.assert_close(loss, soft_cross_entropy(logits, labels, 2.0, 3.0), rtol=1e-6, atol=1e-6)
    half = SparseLabels(sparse.classes, sparse.probs / 2, torch.zeros_like(sparse.rest), 10)  # rows do not sum to 1
    expected = -(half.dense().double() * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(soft_cross_entropy(logits, half, reduction="none"), expected, rtol=1e-6, atol=1e-6)


def test_a_mixture_of_all_parts(labels, logits):
    second, targets, weight = labels[range(40, -1, -1)], torch.arange(41) % 10, torch.linspace(0, 1, 41)
    soft = 0.3 * labels.dense(2.0) + 0.7 * second.dense(2.0)
    dense = (1 - weight[:, None]) * soft + weight[:, None] * F.one_hot(targets, 10)
    options = {"targets": targets, "target_weight": weight, "second": second, "mix": 0.3}
    for mix in (0.3, torch.tensor(0.3), torch.full((41,), 0.3)):
        loss = soft_cross_entropy(logits, labels, 2.0, **options | {"mix": mix})
        torch.testing.assert_close(loss, F.cross_entropy(logits, dense.double()), rtol=1e-6, atol=1e-6)
    kl = soft_cross_entropy(logits, labels, 2.0, **options, divergence="kl")
    expected = F.kl_div(logits.log_softmax(1), dense.double(), reduction="batchmean")
    torch.testing.assert_close(kl, expected, rtol=1e-6, atol=1e-6)


def test_a_share_given_as_a_number_is_as_exact_as_the_logits(labels, logits):
    second, targets = labels[range(40, -1, -1)], torch.arange(41) % 10
    share = torch.full((41,), 0.3, dtype=torch.float64)
    losses = [
        soft_cross_entropy(logits * 100, labels, targets=targets, target_weight=each, second=second, mix=each)
        for each in (0.3, share)
    ]
    torch.testing.assert_close(*losses, rtol=1e-14, atol=0)


def test_labels_made_in_inference_mode(labels, logits):
    with torch.inference_mode():
        fresh = TopKCodec(k=4, num_classes=10).encode(logits)
    gradients = []
    for each in (fresh, TopKCodec(k=4, num_classes=10).encode(logits)):
        leaf = logits.flip(0).requires_grad_()
        soft_cross_entropy(leaf, each, targets=torch.zeros(41).long(), target_weight=0.5).backward()
        gradients.append(leaf.grad)
    assert fresh.codes.is_inference() and torch.equal(*gradients)


def test_hintons_distillation(labels, logits):
    logits = logits.requires_grad_()
    T = 4.0
    loss = soft_cross_entropy(logits, labels, T, T, temperature_squared=True, divergence="kl")
    soft = F.log_softmax(logits / T, dim=1)
    expected = F.kl_div(soft, labels.dense(T).double(), reduction="batchmean") * T * T
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


def test_rows_of_a_plane_are_not_gathered(labels, logits):
    rows = torch.randperm(41, generator=torch.Generator().manual_seed(2))
    batch, second = labels.take(rows), labels.take(rows.flip(0))
    loss = soft_cross_entropy(logits, batch, second=second, mix=0.4)
    assert "_gathered" not in vars(batch).keys() | vars(second).keys()
    expected = soft_cross_entropy(logits, labels[rows], second=labels[rows.flip(0)], mix=0.4)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(batch.dense(2.0), labels[rows].dense(2.0), rtol=0, atol=0)
    assert batch.codes.shape == (41, batch.k) and "_gathered" in vars(batch)


def test_one_loss_per_row(labels, logits):
    losses = soft_cross_entropy(logits, labels, reduction="none")
    assert losses.shape == (41,)
    torch.testing.assert_close(losses.mean(), soft_cross_entropy(logits, labels))
    torch.testing.assert_close(losses.sum(), soft_cross_entropy(logits, labels, reduction="sum"))


def test_a_student_learns_the_label(labels):
    logits = torch.zeros(41, 10, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=41.0)
    for _ in range(100):
        optimizer.zero_grad()
        soft_cross_entropy(logits, labels).backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().softmax(1), labels.dense(), atol=0.01, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_under_torch_compile(labels, logits, backend):
    x = logits.float()
    rows = torch.arange(41)
    cases = [
        (labels, {"label_temperature": 2.0, "student_temperature": 1.5}),
        (labels.take(rows), {"second": labels.take(rows.flip(0)), "mix": 0.4, "divergence": "kl"}),
        (labels.sparse(), {"targets": rows % 10, "target_weight": torch.linspace(0, 1, 41), "reduction": "sum"}),
    ]
    for soft, options in cases[:1] if backend == "inductor" else cases:

        def step(x, soft=soft, options=options):
            return soft_cross_entropy(x * 2, soft, **options)

        compiled = torch.compile(step, fullgraph=True, backend=backend)
        results = []
        for function in (step, compiled):
            leaf = x.clone().requires_grad_()
            loss = function(leaf)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_wrong_arguments(labels, logits):
    def refused(match, *args, **options):
        with pytest.raises(InputError, match=match):
            soft_cross_entropy(*args, **options)

    refused(r"shape \(40, 10\), expected \(41, 10\)", logits[1:], labels)
    refused(r"shape \(41, 9\), expected \(41, 10\)", logits[:, 1:], labels)
    refused("on meta and labels on cpu", logits.to("meta"), labels)
    refused("label_temperature is 0", logits, labels, label_temperature=0)
    refused("student_temperature is -1", logits, labels, student_temperature=-1)
    refused("reduction is 'avg'", logits, labels, reduction="avg")
    refused("divergence is 'js'", logits, labels, divergence="js")
    refused("label_temperature is 2.0, expected 1", logits, labels.sparse(), 2.0)
    refused("labels are TopKLabels and second SparseLabels", logits, labels, second=labels.sparse(), mix=0.5)
    refused(r"expected \(40, 10\) as second", logits, labels, second=labels[1:], mix=0.5)
    refused("expected both second and mix", logits, labels, mix=0.5)
    refused("mix is 1.5, expected 0 to 1", logits, labels, second=labels, mix=1.5)
    refused("expected both targets and target_weight", logits, labels, targets=torch.zeros(41).long())
    targets = (torch.arange(41) - 30).clamp(min=0)
    refused("1 targets are outside of 0 to 9", logits, labels, targets=targets, target_weight=1.0)
    weight = torch.rand(41, requires_grad=True)
    refused("mix requires a gradient, which only logits get", logits, labels, second=labels, mix=weight)
    sparse = labels.sparse()
    sparse.probs.requires_grad_()
    refused("labels require a gradient, which only logits get", logits, sparse)
