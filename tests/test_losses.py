"""The public soft cross-entropy: the op on TopKLabels, and its error messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastlabel.codec import TopKCodec
from fastlabel.errors import InputError
from fastlabel.losses import soft_cross_entropy


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


def test_wrong_arguments(labels, logits):
    with pytest.raises(InputError, match=r"shape \(40, 10\), expected \(41, 10\)"):
        soft_cross_entropy(logits[1:], labels)
    with pytest.raises(InputError, match=r"shape \(41, 9\), expected \(41, 10\)"):
        soft_cross_entropy(logits[:, 1:], labels)
    with pytest.raises(InputError, match="on meta and labels on cpu"):
        soft_cross_entropy(logits.to("meta"), labels)
    with pytest.raises(InputError, match="label_temperature is 0"):
        soft_cross_entropy(logits, labels, label_temperature=0)
    with pytest.raises(InputError, match="student_temperature is -1"):
        soft_cross_entropy(logits, labels, student_temperature=-1)
    with pytest.raises(InputError, match="reduction is 'avg'"):
        soft_cross_entropy(logits, labels, reduction="avg")
