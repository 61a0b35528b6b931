"""The label edits of arXiv 2406.10485, on labels of small random teachers: against dense arithmetic, and in the loss.

Every edit is written a second time, on dense probabilities [B, C] as the paper's own scripts would. At K = C both
must agree; below, the dense arithmetic runs on what the stored labels stand for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel import SparseLabels, TopKCodec, TopKLabels, label_ops, soft_cross_entropy

ROWS, CLASSES = 33, 10
IDS = np.arange(100, 100 + ROWS)
# All different, so that "the i-th class" is the same in both ways.
GAPS = torch.tensor([0, 3, 7, 12, 18, 25, 33, 42, 52, 63], dtype=torch.float64) / 8


def teacher_logits(seed: int) -> Tensor:
    """Logits in steps of 1/8 nat, which codes hold exactly, with a random order of the classes in each row."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(ROWS, CLASSES, generator=generator).argsort(1)
    return -GAPS[order] * (1 + torch.arange(ROWS) % 2)[:, None]


@pytest.fixture(params=[CLASSES, 4], ids=["K=C", "K<C"])
def teachers(request) -> list[TopKLabels]:
    codec = TopKCodec(request.param, CLASSES)
    return [codec.encode(teacher_logits(seed)) for seed in range(3)]


def dense(labels: TopKLabels, temperature: float = 1.0) -> Tensor:
    """float64 [B, C]."""
    return labels.dense(temperature).double()


def ranks(probs: Tensor) -> Tensor:
    """Classes by descending probability, int64 [B, C]."""
    return probs.sort(dim=1, descending=True, stable=True).indices


def agree(labels: SparseLabels, expected: Tensor, rtol: float = 1e-5) -> None:
    """As a distribution, and as the target of a loss and of its gradient."""
    torch.testing.assert_close(labels.dense().double(), expected, rtol=rtol, atol=1e-9)
    logits = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(9)) * 3
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = soft_cross_entropy(ours, labels)
    reference = -(expected * theirs.log_softmax(1)).sum(1).mean()
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)
    # PyTorch's own loss on the edited target.
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels.dense()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_temperature(teachers, temperature):
    expected = dense(teachers[0], temperature)
    if teachers[0].k == CLASSES:
        torch.testing.assert_close(expected, (teacher_logits(0) / temperature).softmax(1), rtol=1e-5, atol=1e-9)
    agree(teachers[0].sparse(temperature), expected)


@pytest.mark.parametrize("i", [0, 1, 3])
def test_label_swap(teachers, i):
    expected = dense(teachers[0])
    order = ranks(expected)
    for b, row in enumerate(expected):
        ith, least = int(order[b, i]), int(order[b, -1])
        if teachers[0].k < CLASSES:
            unlisted = set(range(CLASSES)) - set(teachers[0].classes[b].tolist())
            least = next(c % CLASSES for c in range(ith + CLASSES // 2, 3 * CLASSES) if c % CLASSES in unlisted)
            assert row[least] == row.min()
        row[[ith, least]] = row[[least, ith]]
    agree(label_ops.swap(teachers[0].sparse(), i), expected)


@pytest.mark.parametrize("j", [1, 2, 4])
@pytest.mark.parametrize("rest", ["zero", "renormalise", "tail"])
def test_data_knowledge_scaling(teachers, j, rest):
    probs = dense(teachers[0], 2.0)
    kept = torch.zeros_like(probs, dtype=torch.bool).scatter_(1, ranks(probs)[:, :j], True)
    expected = probs * kept
    if rest == "renormalise":
        expected /= expected.sum(1, keepdim=True)
    if rest == "tail":
        expected += ~kept * (1 - expected.sum(1, keepdim=True)) / (CLASSES - j)
    agree(label_ops.keep_top(teachers[0].sparse(2.0), j, rest), expected)


@pytest.mark.parametrize("renormalise", [True, False])
def test_zero_shot(teachers, renormalise):
    expected = dense(teachers[0])
    expected[:, 6] = 0
    if renormalise:
        expected /= expected.sum(1, keepdim=True)
    agree(label_ops.remove_class(teachers[0].sparse(), 6, renormalise), expected)


def test_ensemble_after_the_softmax(teachers):
    expected = sum(dense(teacher, 1.5) for teacher in teachers) / 3
    agree(label_ops.average([teacher.sparse(1.5) for teacher in teachers]), expected)


def test_ensemble_before_the_softmax(teachers):
    expected = (sum(dense(teacher, 1.5).log() for teacher in teachers) / 3).softmax(1)
    if teachers[0].k == CLASSES:
        logits = sum(teacher_logits(seed) for seed in range(3)) / 3
        torch.testing.assert_close(expected, (logits / 1.5).softmax(1), rtol=1e-5, atol=1e-9)
    agree(label_ops.average_logits(teachers, 1.5), expected)


def test_hard_labels(teachers):
    targets = torch.arange(ROWS) % CLASSES
    mask = torch.arange(ROWS) < 20
    expected = torch.where(mask[:, None], F.one_hot(targets, CLASSES).double(), dense(teachers[0]))
    agree(label_ops.replace_by_hard(teachers[0].sparse(), targets, mask), expected)
    agree(SparseLabels.hard(targets, CLASSES), F.one_hot(targets, CLASSES).double())


def test_structure_shuffled(teachers):
    labels = teachers[0].sparse()
    shuffled = label_ops.shuffle_rest(labels, IDS, seed=4)
    probs, found = labels.dense(), shuffled.dense()
    assert torch.equal(found.argmax(1), probs.argmax(1))
    assert torch.equal(found.sort(1).values, probs.sort(1).values)
    # Which class came second says nothing about which one does now: 33 rows, 1 in 9 by chance.
    assert (ranks(found)[:, 1] == ranks(probs)[:, 1]).sum() < 12
    agree(shuffled, found.double())


def test_structure_smoothed_with_equal_entropy(teachers):
    labels = teachers[0].sparse()
    probs = dense(teachers[0])
    entropy = -(probs * probs.log()).sum(1)
    epsilon = torch.tensor([_solve(lambda e, h=h: _entropy(e) - h) for h in entropy.tolist()], dtype=torch.float64)
    expected = (epsilon / CLASSES)[:, None].repeat(1, CLASSES)
    expected[torch.arange(ROWS), probs.argmax(1)] += 1 - epsilon
    agree(label_ops.smoothed_like(labels), expected, rtol=1e-4)


def _entropy(epsilon: float) -> float:
    """Of label smoothing in its usual form: (1 - epsilon) * one_hot + epsilon / C."""
    top, other = 1 - epsilon + epsilon / CLASSES, epsilon / CLASSES
    return -top * math.log(top) - (CLASSES - 1) * other * math.log(other)


def _solve(function: Callable[[float], float]) -> float:
    low, high = 1e-12, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def test_temper_then_edit_then_mix(teachers):
    """A chain: two teachers at T = 2, one truncated, mixed, without class 6, and mixed up with the next sample."""
    a, b = dense(teachers[0], 2.0), dense(teachers[1], 2.0)
    kept = torch.zeros_like(a, dtype=torch.bool).scatter_(1, ranks(a)[:, :3], True)
    a = a * kept + ~kept * (1 - (a * kept).sum(1, keepdim=True)) / (CLASSES - 3)
    both = 0.7 * a + 0.3 * b
    both[:, 6] = 0
    both /= both.sum(1, keepdim=True)
    lam = torch.rand(ROWS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = lam[:, None] * both + (1 - lam)[:, None] * both.roll(-1, 0)

    first = label_ops.keep_top(teachers[0].sparse(2.0), 3, "tail")
    mixed = label_ops.remove_class(label_ops.mix(first, teachers[1].sparse(2.0), 0.7), 6)
    agree(label_ops.mix(mixed, mixed[np.roll(np.arange(ROWS), -1)], lam), expected)


def test_the_examples_of_the_documentation_run(teachers):
    """The Python blocks of docs/labels.md on labels; what it says about them is tested above.

    The one that opens a store is run by tests/store/test_analysis.py.
    """
    page = Path(__file__).resolve().parents[2] / "docs" / "labels.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    of_a_store = [block for block in blocks if "LabelStore" in block]
    assert (len(blocks), len(of_a_store)) == (3, 1)
    for block in (block for block in blocks if block not in of_a_store):
        names = {
            "labels": teachers[0],
            "plane": teachers[0],
            "experts": teachers,
            "ids": torch.arange(ROWS),
            "targets": torch.arange(ROWS) % CLASSES,
            "logits": torch.zeros(ROWS, CLASSES),
            "lam": torch.rand(ROWS),
        }
        if teachers[0].k < 5:
            block = block.replace("keep_top(labels, 5", "keep_top(labels, 4")
        exec(block, names)
        made = {name: value for name, value in names.items() if isinstance(value, SparseLabels)}
        assert made
        for value in made.values():
            value.check_values()
            assert len(value) == ROWS
    assert {"swapped", "zeroed", "without", "mean_logits", "shuffled", "smoothed", "mixed_up"} <= made.keys()
