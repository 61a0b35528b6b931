from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.models.classifier import Classifier
from fastlabel.train.objectives import cached_loss, hard_loss, online_loss

from .conftest import SPEC, MemoryBatch, MemoryLoader


@pytest.fixture
def teacher():
    torch.manual_seed(2)
    return Classifier(SPEC)


@pytest.fixture
def batch(teacher):
    images = MemoryLoader().images
    with torch.no_grad():
        labels = TopKCodec(k=4, num_classes=4).encode(teacher.eval()(images))
    return MemoryBatch(images, labels, torch.arange(40) % 4, torch.arange(40))


@pytest.mark.parametrize(("label_temperature", "student_temperature"), [(1, 1), (2, 1), (0.5, 4)])
def test_cached_and_online_losses_agree_within_the_step_of_the_codec(
    teacher, batch, label_temperature, student_temperature
):
    student = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    cached = cached_loss(label_temperature, student_temperature)(student, batch)
    online = online_loss(teacher, label_temperature, student_temperature)(student, batch)
    assert cached.shape == online.shape == (40,)
    # With K = C every gap is off by at most half a step of 1/8 nat, so every probability by a factor of at most
    # exp(1/8T), and the loss, a mean of -log q, by that share of the spread of log q.
    logs = F.log_softmax(student / student_temperature, dim=1)
    spread = logs.amax(dim=1) - logs.amin(dim=1)
    bound = (torch.tensor(1 / (8 * label_temperature)).exp() - 1) * spread
    assert bool(((cached - online).abs() <= bound).all())


def test_online_is_the_cross_entropy_with_the_teachers_probabilities(teacher, batch):
    student = torch.randn(40, 4)
    expected = -(torch.softmax(teacher(batch.images) / 3, 1) * torch.log_softmax(student / 2, 1)).sum(1)
    torch.testing.assert_close(online_loss(teacher, 3, 2)(student, batch), expected)


def test_online_sends_no_gradient_to_the_teacher_and_takes_it_out_of_training(teacher, batch):
    teacher.train()
    student = torch.zeros(40, 4, requires_grad=True)
    online_loss(teacher)(student, batch).sum().backward()
    assert student.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training


def test_hard_loss_is_cross_entropy(batch):
    logits = torch.randn(40, 4)
    torch.testing.assert_close(
        hard_loss(0.1)(logits, batch).mean(), F.cross_entropy(logits, batch.targets, label_smoothing=0.1)
    )


def test_cached_loss_needs_labels(batch):
    without = MemoryBatch(batch.images, None, batch.targets, batch.ids)
    with pytest.raises(InputError, match="no soft labels"):
        cached_loss()(torch.zeros(40, 4), without)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperatures_must_be_positive(teacher, temperature):
    for make in (lambda: cached_loss(temperature), lambda: online_loss(teacher, 1, temperature)):
        with pytest.raises(InputError, match="temperature"):
            make()
