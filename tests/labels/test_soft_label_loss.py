"""The uses of a label against float64 arithmetic on its dense form, written here once more from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel import SoftLabelLoss, SparseLabels, TopKCodec, TransformCodec, label_ops
from fastlabel.errors import InputError
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.dense_losses import LARGEST_GAP, centred_logits
from fastlabel.labels.soft_label_loss import used_labels

B, C = 5, 7


@pytest.fixture
def teacher():
    return 4 * torch.randn(B, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def student():
    return 3 * torch.randn(B, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def targets():
    return torch.tensor([0, 3, 6, 3, 1])


def labels_of(logits, k=C):
    return TopKCodec(k=k, num_classes=logits.shape[1]).encode(logits.float())


def softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def decoded(labels):
    """Logits of labels with all classes, up to a constant."""
    return np.log(labels.dense(1.0).double().numpy())


def soft_ce(student, labels, targets, t=2.0, s=3.0):
    return -(softmax(decoded(labels) / t) * np.log(softmax(student / s))).sum(1)


def kl(student, labels, targets, t=2.0, s=3.0):
    p = softmax(decoded(labels) / t)
    return (p * (np.log(p) - np.log(softmax(student / s)))).sum(1)


def mse(student, labels, targets):
    z = decoded(labels)
    return ((student - student.mean(1, keepdims=True) - z + z.mean(1, keepdims=True)) ** 2).mean(1)


def gift(student, labels, targets):
    z = decoded(labels)
    z = z - z.mean(1, keepdims=True)
    smooth = np.full_like(z, 0.1 / (C - 1))
    smooth[np.arange(B), targets] = 0.9
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z, smooth)]
    refined = 0.9 * unit[0] + 0.1 * unit[1]
    return 1 - (student * refined).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(refined, axis=1)


def dist(student, labels, targets, t=2.0):
    a, b = softmax(student / t), softmax(decoded(labels) / t)
    rows = np.array([1 - np.corrcoef(a[i], b[i])[0, 1] for i in range(B)])
    columns = np.mean([1 - np.corrcoef(a[:, c], b[:, c])[0, 1] for c in range(C)])
    return t**2 * (rows + columns)


CASES = [
    (soft_ce, {"loss": "soft-ce", "label_temperature": 2.0, "student_temperature": 3.0}),
    (kl, {"loss": "kl", "label_temperature": 2.0, "student_temperature": 3.0}),
    (mse, {"loss": "mse-logits"}),
    (gift, {"loss": "gift"}),
    (dist, {"loss": "dist", "label_temperature": 2.0, "student_temperature": 2.0}),
]


@pytest.mark.parametrize(("formula", "options"), CASES, ids=[options["loss"] for _, options in CASES])
def test_losses_equal_their_formulas_in_float64(formula, options, teacher, student, targets):
    labels = labels_of(teacher)
    expected = formula(student.numpy(), labels, targets.numpy())
    loss = SoftLabelLoss(**options)
    found = loss(student, labels, targets, reduction="none")
    assert found.dtype == torch.float64
    # Labels are float32.
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-6)
    assert float(loss(student, labels, targets)) == pytest.approx(expected.mean(), rel=2e-5)
    assert float(loss(student, labels, targets, reduction="sum")) == pytest.approx(expected.sum(), rel=2e-5)
    single = loss(student.float(), labels, targets, reduction="none")
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=[o["loss"] for _, o in CASES])
@pytest.mark.parametrize("hard_weight", [0.0, 0.3])
def test_gradients_are_those_of_differences(options, hard_weight, teacher, student, targets):
    labels, loss = labels_of(teacher, k=4), SoftLabelLoss(**options, hard_weight=hard_weight)
    logits = student.clone().requires_grad_()
    # A fused loss sends no second derivative, and gradcheck asks for none.
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, targets), logits, atol=1e-6)


def test_hard_part_has_no_temperature(teacher, student, targets):
    labels = labels_of(teacher)
    both = SoftLabelLoss("kl", 20.0, 20.0, hard_weight=0.25, label_smoothing=0.1)
    hard = torch.nn.functional.cross_entropy(student, targets, label_smoothing=0.1)
    soft = SoftLabelLoss("kl", 20.0, 20.0)(student, labels)
    torch.testing.assert_close(both(student, labels, targets), 0.75 * soft + 0.25 * hard)
    only = SoftLabelLoss("kl", 20.0, 20.0, hard_weight=1.0, label_smoothing=0.1)
    torch.testing.assert_close(only(student, labels, targets), hard)


def test_a_squared_temperature(teacher, student):
    labels = labels_of(teacher)
    once = SoftLabelLoss("kl", 4.0, 4.0)(student, labels)
    torch.testing.assert_close(SoftLabelLoss("kl", 4.0, 4.0, temperature_squared=True)(student, labels), 16 * once)


def test_phases_and_schedules_are_functions_of_the_epoch(teacher, student, targets):
    labels = labels_of(teacher)
    loss = SoftLabelLoss("kl", "step:8,0.5,1,2", 1.0, phases="soft:2,hard:1,soft:2", epochs=5)
    found = [float(loss(student, labels, targets, epoch=epoch)) for epoch in range(5)]
    hard = float(torch.nn.functional.cross_entropy(student, targets))
    expected = [float(SoftLabelLoss("kl", float(t), 1.0)(student, labels)) for t in (8, 4, 2, 2)]
    assert found == pytest.approx([*expected[:2], hard, *expected[2:]])
    assert [loss.phase(epoch) for epoch in range(5)] == ["soft", "soft", "hard", "soft", "soft"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["uniform", "renormalise", "zero"]),
    st.sampled_from([0.5, 1.0, 4.0, 20.0]),
)
def test_kept_classes_are_those_of_the_edit(seed, k, keep, tail, temperature):
    """The first classes of a stored label, without sorting it, are what `keep_top` gives."""
    labels = labels_of(5 * torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)), k=max(k, keep))
    rest = {"uniform": "tail"}.get(tail, tail)
    edited = label_ops.keep_top(labels.sparse(temperature), keep, rest)
    found = used_labels(labels, temperature, keep, tail)
    torch.testing.assert_close(found.dense(), edited.dense(), rtol=1e-6, atol=1e-9)
    if tail != "uniform" and keep == labels.k:
        expected = labels.dense(temperature, tail=tail)
        torch.testing.assert_close(used_labels(labels, temperature, None, tail).dense(), expected)


@pytest.mark.parametrize("loss", ["soft-ce", "kl", "dist"])
def test_kept_labels_in_the_loss(loss, teacher, student):
    """A kept and renormalised label is softmax of the kept logits over the temperature (as in arXiv 2604.18135)."""
    labels = labels_of(teacher, k=4)
    top = torch.zeros(B, C, dtype=torch.bool).scatter_(1, labels.classes.long()[:, :2], True)
    expected = torch.softmax(torch.where(top, torch.log(labels.dense(1.0)) / 4, -torch.inf), 1)
    found = SoftLabelLoss(loss, 4.0, 2.0, keep=2, tail="renormalise")(student, labels)
    torch.testing.assert_close(found, SoftLabelLoss(loss, 1.0, 2.0)(student, SparseLabels.from_dense(expected)))


def test_labels_are_used_as_they_are_by_default(teacher):
    labels = labels_of(teacher, k=3)
    assert used_labels(labels, 4.0, None, "uniform") is labels


def test_centred_logits(teacher):
    """Exact to the step where all classes are kept; else the others have the mean of theirs."""
    whole = centred_logits(labels_of(teacher), torch.float64)
    expected = teacher - teacher.mean(1, keepdim=True)
    assert float((whole - expected).abs().max()) <= 1 / 8
    part = centred_logits(labels_of(teacher, k=3), torch.float64)
    order = teacher.argsort(1, descending=True)
    tail = teacher.gather(1, order[:, 3:]).mean(1, keepdim=True).expand(-1, C - 3)
    flat = teacher.scatter(1, order[:, 3:], tail)
    assert float((part - flat + flat.mean(1, keepdim=True)).abs().max()) <= 1 / 8
    torch.testing.assert_close(part.mean(1), torch.zeros(B, dtype=torch.float64))


def test_labels_with_a_transform_are_used_by_their_logits():
    """Of all classes at any temperature; kept ones are the best of all classes, not of those stored exactly."""
    classes, rank = 24, 6
    generator = torch.Generator().manual_seed(7)
    mixing = torch.randn(rank, classes, generator=generator)
    logits = [2 * torch.randn(rows, rank, generator=generator) @ mixing for rows in (200, 6)]
    labels = TransformCodec.of(TransformBasis.from_logits(logits[0], rank), 3, 0.25).encode(logits[1])
    student, targets = torch.randn(6, classes, generator=generator, dtype=torch.float64), torch.arange(6)
    z = labels.logits(torch.float64)
    whole = SparseLabels.from_dense(torch.softmax(z / 20, 1))
    top = torch.zeros_like(z, dtype=torch.bool).scatter(1, z.topk(5, dim=1).indices, True)
    part = SparseLabels.from_dense(torch.softmax(torch.where(top, z / 20, -torch.inf), 1))
    for loss in ("soft-ce", "kl", "dist"):
        plain = SoftLabelLoss(loss, 1.0, 20.0)
        for options, expected in (({}, whole), ({"keep": 5, "tail": "renormalise"}, part)):
            found = SoftLabelLoss(loss, 20.0, 20.0, **options)(student, labels)
            torch.testing.assert_close(found, plain(student, expected), rtol=1e-4, atol=1e-5)
    centred = z - z.mean(1, keepdim=True)
    mse = SoftLabelLoss("mse-logits")(student, labels, reduction="none")
    wanted = (student - student.mean(1, keepdim=True) - centred).square().mean(1)
    torch.testing.assert_close(mse, wanted, rtol=1e-4, atol=1e-4)
    assert bool(SoftLabelLoss("gift")(student, labels, targets).isfinite())
    with pytest.raises(InputError, match="say with keep how many"):
        SoftLabelLoss(tail="zero")(student, labels)


def test_a_probability_of_zero_is_the_largest_gap():
    logits = torch.tensor([[3.0, -torch.inf, 1.0, -torch.inf], [0.0, -90.0, -1.0, -95.0]])
    for k in (1, 2, 4):
        found = centred_logits(labels_of(logits, k))
        assert bool(found.isfinite().all())
        assert float((found.amax(1) - found.amin(1)).max()) <= LARGEST_GAP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l2"}, "unknown loss 'l2': known are soft-ce"),
        ({"tail": "flat"}, "unknown tail"),
        ({"keep": 0}, "keep 0 must be at least 1"),
        ({"keep": 1.5}, "keep 1.5 must be an integer"),
        ({"hard_weight": 1.1}, "hard_weight is 1.1, expected 0 to 1"),
        ({"hard_weight": float("nan")}, "hard_weight"),
        ({"hard_weight": "half"}, "hard_weight"),
        ({"label_smoothing": 1}, "label_smoothing is 1, expected 0 and below 1"),
        ({"label_temperature": "cosine:20,2"}, "cosine:20,2 needs the number of epochs"),
        ({"phases": "soft:3"}, "soft:3 needs the number of epochs"),
        ({"phases": "soft:3", "epochs": 4}, "add up to 3 epochs, and the run has 4"),
        ({"loss": "gift", "label_temperature": 4}, "have no temperature"),
        ({"loss": "mse-logits", "student_temperature": 4}, "have no temperature"),
        ({"loss": "mse-logits", "keep": 2}, "the logits of all classes"),
        ({"loss": "gift", "tail": "zero"}, "the logits of all classes"),
        ({"loss": "dist", "temperature_squared": True}, "for soft-ce and kl, not for dist"),
        ({"temperature_squared": 1}, "expected True or False"),
        ({"student_temperature": "hot"}, "student_temperature is 'hot', expected a number, step"),
    ],
)
def test_uses_that_cannot_be_are_named(options, message):
    with pytest.raises(InputError, match=message):
        SoftLabelLoss(**options)


def test_labels_that_do_not_serve_a_use(teacher, student):
    labels = labels_of(teacher, k=3)
    with pytest.raises(InputError, match="keep is 4, and the labels list 3"):
        SoftLabelLoss(keep=4)(student, labels)
    with pytest.raises(InputError, match="keep is 4, and the labels list 3"):
        SoftLabelLoss(keep=4).check_labels(3, C)
    with pytest.raises(InputError, match="with a transform know all classes"):
        SoftLabelLoss(tail="zero").check_labels(3, C, transform=True)
    SoftLabelLoss(tail="zero", keep=C).check_labels(3, C, transform=True)
    for loss in (SoftLabelLoss(hard_weight=0.5), SoftLabelLoss("gift"), SoftLabelLoss(phases="hard:1", epochs=1)):
        with pytest.raises(InputError, match="give targets"):
            loss(student, labels)
    with pytest.raises(InputError, match="reduction is 'max'"):
        SoftLabelLoss()(student, labels, reduction="max")
