"""Running statistics of labels, against the same figures from all labels at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel.inspection.statistics import BINS, LabelStatistics, LabelSummary, RunningSpread, class_name
from fastlabel.inspection.truncation import truncation_kl
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels

NAMES = tuple("abcdefgh")


@pytest.fixture
def labels() -> TopKLabels:
    return TopKCodec(3, 8).encode(2 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def targets() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 8, 500)


def top_classes(labels: TopKLabels) -> np.ndarray:
    """The first class of each label: of two with the same code, the one that the teacher preferred."""
    return labels.classes.numpy()[:, 0].astype(np.int64)


def summarise(labels: TopKLabels, targets: np.ndarray | None, pieces: int = 1, comparable: bool = True) -> LabelSummary:
    same = np.arange(8) if comparable else None
    statistics = LabelStatistics(labels.num_classes, None if targets is None else 8, same)
    for rows in np.array_split(np.arange(len(labels)), pieces):
        statistics.add(labels[rows], None if targets is None else targets[rows])
    summary = statistics.summary(NAMES, NAMES, per_class=True)
    assert summary is not None
    return summary


def test_against_dense_probabilities(labels: TopKLabels, targets: np.ndarray) -> None:
    dense = labels.dense().double().numpy()
    entropy = -(dense * np.log(dense)).sum(1)
    kept = np.sort(dense, axis=1)[:, -3:].sum(1)
    agrees = top_classes(labels) == targets
    found = summarise(labels, targets)
    assert found.labels == 500 and found.by == "hard label"
    assert found.entropy.mean == pytest.approx(entropy.mean(), abs=1e-5)
    assert found.kept_mass.mean == pytest.approx(kept.mean(), abs=1e-5)
    assert found.kept_mass.p1 == pytest.approx(np.percentile(kept, 1, method="inverted_cdf"), abs=2 / BINS)
    assert found.entropy.p95 == pytest.approx(np.percentile(entropy, 95, method="inverted_cdf"), abs=4 / BINS)
    assert found.truncation_kl is not None
    assert found.truncation_kl.mean == pytest.approx(truncation_kl(labels).mean(), abs=1e-9)
    assert found.agreement == pytest.approx(agrees.mean())
    assert [row.agreement for row in found.classes] == sorted(
        agrees[targets == row.number].mean() for row in found.classes
    )
    for row in found.classes:
        mine = targets == row.number
        assert (row.name, row.labels) == (NAMES[row.number], mine.sum())
        assert row.entropy == pytest.approx(entropy[mine].mean(), abs=1e-5)
        assert row.kept_mass == pytest.approx(kept[mine].mean(), abs=1e-5)


def test_confusions(labels: TopKLabels, targets: np.ndarray) -> None:
    top = top_classes(labels)
    found = summarise(labels, targets).confusions
    assert len(found) == 10
    assert [c.labels for c in found] == sorted((c.labels for c in found), reverse=True)
    for confusion in found:
        target, predicted = NAMES.index(confusion.target), NAMES.index(confusion.predicted)
        assert target != predicted
        assert confusion.labels == ((targets == target) & (top == predicted)).sum()


def test_the_same_in_pieces(labels: TopKLabels, targets: np.ndarray) -> None:
    whole, pieces = summarise(labels, targets), summarise(labels, targets, pieces=7)
    assert whole.entropy.mean == pytest.approx(pieces.entropy.mean, rel=1e-12)
    assert (whole.entropy.p50, whole.agreement, whole.confusions) == (
        pieces.entropy.p50,
        pieces.agreement,
        pieces.confusions,
    )


def test_without_hard_labels(labels: TopKLabels) -> None:
    found = summarise(labels, None)
    top = top_classes(labels)
    assert found.agreement is None and found.confusions == () and found.by == "top class"
    assert [row.labels for row in found.classes] == sorted(np.bincount(top).tolist(), reverse=True)


def test_classes_that_cannot_be_compared(labels: TopKLabels, targets: np.ndarray) -> None:
    """A teacher with classes of its own: grouped by hard label, but nothing agrees or disagrees."""
    found = summarise(labels, targets, comparable=False)
    assert found.agreement is None and found.confusions == () and found.by == "hard label"
    assert [row.labels for row in found.classes] == sorted(np.bincount(targets).tolist(), reverse=True)


def test_classes_of_the_teacher_with_a_map(labels: TopKLabels, targets: np.ndarray) -> None:
    """Three classes of the dataset are the teacher's 5, 0 and 2: it is right where it says those."""
    columns = np.array([5, 0, 2])
    statistics = LabelStatistics(8, 3, columns)
    statistics.add(labels, targets % 3)
    found = statistics.summary(("x", "y", "z"), NAMES, per_class=True)
    right = top_classes(labels) == columns[targets % 3]
    assert found is not None and found.agreement == right.mean()
    assert {row.name for row in found.classes} == {"x", "y", "z"}
    assert all((c.target, c.predicted) not in {("x", "f"), ("y", "a"), ("z", "c")} for c in found.confusions)
    assert sum(c.labels for c in statistics.summary(None, None, False, confusions=99).confusions) == (~right).sum()


def test_all_classes_kept() -> None:
    labels = TopKCodec(8, 8).encode(torch.randn(50, 8))
    found = summarise(labels, None)
    assert found.kept_mass.mean == found.kept_mass.p1 == 1.0
    assert found.truncation_kl is not None and found.truncation_kl.mean == 0


def test_unknown_tails_are_counted() -> None:
    logits = torch.randn(20, 8)
    logits[:5].scatter_(1, logits[:5].argmin(1, keepdim=True), -torch.inf)
    found = summarise(TopKCodec(3, 8).encode(logits), None)
    assert found.unknown_tails == 5 and found.truncation_kl is not None
    logits.scatter_(1, logits.argmin(1, keepdim=True), -torch.inf)
    found = summarise(TopKCodec(3, 8).encode(logits), None)
    assert found.unknown_tails == 20 and found.truncation_kl is None


def test_nothing_added() -> None:
    assert LabelStatistics(8).summary(None, None, per_class=True) is None
    assert RunningSpread(1.0).result() is None


def test_one_class_and_one_label() -> None:
    found = summarise(TopKCodec(1, 1).encode(torch.zeros(1, 1)), None)
    assert found.entropy.mean == found.entropy.p99 == 0 and found.kept_mass.p50 == 1


def test_names() -> None:
    assert [class_name(names, 1) for names in (None, ("a",), ("a", "b"))] == ["1", "1", "b"]
