"""What labels say, over any number of them: entropy, kept mass, loss by truncation, agreement with hard labels.

Everything is a running sum or a histogram, so that memory does not grow with the number of labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlabel.inspection.truncation import truncation_kl
from fastlabel.kernels.label_format import widen
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform import TransformLabels

BINS = 1 << 16  # percentiles are right to this share of their range
MAX_CONFUSION_CLASSES = 4096  # a table of all pairs of these takes 128 MiB
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Spread:
    """Mean and percentiles over labels."""

    mean: float
    p1: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float


@dataclass(frozen=True)
class ClassSummary:
    """The labels of one class: their number, mean entropy in nats, mean kept mass, top-1 agreement (a share)."""

    number: int
    name: str
    labels: int
    entropy: float
    kept_mass: float
    agreement: float | None


@dataclass(frozen=True)
class Confusion:
    """How many crops of class ``target`` have ``predicted`` as the top class of their label."""

    target: str
    predicted: str
    labels: int


@dataclass(frozen=True)
class LabelSummary:
    """What the labels that were looked at say.

    Attributes:
        labels: how many were looked at.
        entropy: of the labels as students see them, nats.
        kept_mass: probability of the K kept classes together.
        truncation_kl: estimated KL(teacher || label) in nats (``truncation.truncation_kl``); None where no label has
            one. The mean entropy less this is about the entropy of the teacher's own probabilities.
        unknown_tails: labels without that estimate: the teacher gave a class a probability of zero.
        agreement: share of labels whose top class is the hard label; None without hard labels.
        by: whether classes are those of the hard labels ("hard label") or of the labels ("top class").
        classes: sorted by agreement, else by number of labels; only where asked for.
        confusions: the most frequent ones first.
    """

    labels: int
    entropy: Spread
    kept_mass: Spread
    truncation_kl: Spread | None
    unknown_tails: int
    agreement: float | None
    by: str
    classes: tuple[ClassSummary, ...]
    confusions: tuple[Confusion, ...]


class RunningSpread:
    """Mean and percentiles of values from 0 to ``high``, in the memory of one histogram."""

    def __init__(self, high: float) -> None:
        self._step = (high or 1.0) / BINS
        self._counts = np.zeros(BINS + 1, np.int64)
        self._sum = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        bins = np.clip(np.rint(values / self._step), 0, BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=BINS + 1)
        self._sum += float(values.sum())

    def result(self) -> Spread | None:
        """None where nothing was added."""
        upto = np.cumsum(self._counts)
        count = int(upto[-1])
        if not count:
            return None
        ranks = [max(1, math.ceil(count * percent / 100)) for percent in PERCENTILES]
        values = [float(np.searchsorted(upto, rank)) * self._step for rank in ranks]
        return Spread(self._sum / count, *values)


class LabelStatistics:
    """Sums over labels [B] of one teacher, with the hard labels of their samples where those are known.

    Args:
        num_classes: that the labels are over.
        num_targets: classes of the hard labels, or None where there are none.
        class_of_target: int64 [num_targets], the class of a label that each hard label is; None where they have
            nothing to do with one another.
    """

    def __init__(
        self, num_classes: int, num_targets: int | None = None, class_of_target: NDArray[np.int64] | None = None
    ) -> None:
        self._targets = num_targets is not None
        self._class_of_target = class_of_target if self._targets else None
        self._entropy, self._kept = RunningSpread(math.log(num_classes)), RunningSpread(1.0)
        self._kl = RunningSpread(math.log(num_classes))
        self.labels = self._unknown = 0
        # Rows: labels, summed entropy, summed kept mass, agreements.
        self._classes = np.zeros((4, num_targets or num_classes))
        few = max(num_classes, num_targets or 0) <= MAX_CONFUSION_CLASSES
        shape = (num_targets or 0, num_classes) if self._class_of_target is not None and few else (0, 0)
        self._pairs = np.zeros(shape, np.int64)

    def add(self, labels: TopKLabels, targets_B: NDArray[np.int64] | None) -> None:
        """Count B labels; ``targets_B`` are the hard labels of their samples."""
        entropy, kept = entropy_and_kept_mass(labels)
        kl = truncation_kl(labels)
        known = np.isfinite(kl)
        self._entropy.add(entropy)
        self._kept.add(kept)
        self._kl.add(kl[known])
        self.labels += len(labels)
        self._unknown += int((~known).sum())
        top = widen(labels.classes[:, 0]).numpy().astype(np.int64)
        groups = targets_B if self._targets and targets_B is not None else top
        agrees = np.zeros(len(top)) if self._class_of_target is None else top == self._class_of_target[groups]
        for row, weights in enumerate((np.ones(len(top)), entropy, kept, agrees)):
            self._classes[row] += np.bincount(groups, weights, self._classes.shape[1])
        if self._pairs.size:
            np.add.at(self._pairs, (groups, top), 1)

    def summary(
        self,
        target_names: tuple[str, ...] | None,
        class_names: tuple[str, ...] | None,
        per_class: bool,
        confusions: int = 10,
    ) -> LabelSummary | None:
        """What was counted, with the names of hard labels and of the labels' classes. None where nothing was."""
        entropy, kept = self._entropy.result(), self._kept.result()
        if entropy is None or kept is None:
            return None
        return LabelSummary(
            labels=self.labels,
            entropy=entropy,
            kept_mass=kept,
            truncation_kl=self._kl.result(),
            unknown_tails=self._unknown,
            agreement=float(self._classes[3].sum()) / self.labels if self._class_of_target is not None else None,
            by="hard label" if self._targets else "top class",
            classes=self._class_rows(target_names if self._targets else class_names) if per_class else (),
            confusions=self._most_confused(target_names, class_names, confusions),
        )

    def _class_rows(self, names: tuple[str, ...] | None) -> tuple[ClassSummary, ...]:
        rows = []
        for number in np.flatnonzero(self._classes[0]):
            count, entropy, kept, agrees = (float(value) for value in self._classes[:, number])
            agreement = None if self._class_of_target is None else agrees / count
            name = class_name(names, int(number))
            rows.append(ClassSummary(int(number), name, int(count), entropy / count, kept / count, agreement))
        return tuple(sorted(rows, key=lambda row: (row.agreement or 0.0, -row.labels, row.number)))

    def _most_confused(
        self, target_names: tuple[str, ...] | None, class_names: tuple[str, ...] | None, count: int
    ) -> tuple[Confusion, ...]:
        if self._class_of_target is None or not self._pairs.size:
            return ()
        wrong = self._pairs.copy()
        wrong[np.arange(len(wrong)), self._class_of_target] = 0
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [(int(pair) // wrong.shape[1], int(pair) % wrong.shape[1]) for pair in order]
        return tuple(
            Confusion(
                class_name(target_names, target), class_name(class_names, predicted), int(wrong[target, predicted])
            )
            for target, predicted in pairs
            if wrong[target, predicted]
        )


def entropy_and_kept_mass(labels: TopKLabels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of B labels: entropy in nats, and the probability of the kept classes together; float64 [B]."""
    probs_BK, tail_B = (part.double().numpy() for part in labels.probabilities())
    rest = labels.num_classes - labels.k
    if isinstance(labels, TransformLabels):
        entropy = -_xlogx(labels.dense().double().numpy()).sum(axis=1)
        return np.maximum(entropy, 0), 1 - rest * tail_B
    entropy = -_xlogx(probs_BK).sum(axis=1) - rest * _xlogx(tail_B)
    # From the tail: a sum of K float32 probabilities is not exactly 1 where the tail has nothing.
    return np.maximum(entropy, 0), 1 - rest * tail_B


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1))


def class_name(names: tuple[str, ...] | None, number: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[number] if names is not None and number < len(names) else str(number)
