"""Per-sample losses of a batch: against hard labels, stored soft labels, or a teacher that runs along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels, soft_cross_entropy
from fastlabel.labels.soft_label_loss import SoftLabelLoss, hard_cross_entropy
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import check_temperature
from fastlabel.teachers.precision import full_precision


class TrainingBatch(Protocol):
    """Images [B, 3, H, W], soft labels or None, hard labels and sample ids int64 [B], from a loader."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> SoftLabels | None: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def ids(self) -> Tensor: ...


PerSampleLoss = Callable[[Tensor, TrainingBatch], Tensor]
"""(student logits [B, C] in the network's own precision, batch) -> losses float32 [B] in nats."""


@dataclass(frozen=True)
class ScheduledLoss:
    """A loss that changes from epoch to epoch.

    Attributes:
        at: the loss of epoch 0, 1, ...
        says: what that epoch has of its own, for its metrics.
    """

    at: Callable[[int], PerSampleLoss]
    says: Callable[[int], dict[str, Any]]


def loss_of_epoch(loss: PerSampleLoss | ScheduledLoss, epoch: int) -> PerSampleLoss:
    """The loss of epoch 0, 1, ..."""
    return loss.at(epoch) if isinstance(loss, ScheduledLoss) else loss


def own_metrics(loss: PerSampleLoss | ScheduledLoss, epoch: int) -> dict[str, Any]:
    """What epoch 0, 1, ... has of its own: a temperature, a phase."""
    return loss.says(epoch) if isinstance(loss, ScheduledLoss) else {}


def hard_loss(label_smoothing: float = 0.0) -> PerSampleLoss:
    """Cross entropy with the class of each image; of a mixed crop with both classes, by their shares."""

    def per_sample_loss(logits_BC: Tensor, batch: TrainingBatch) -> Tensor:
        return hard_cross_entropy(logits_BC, batch.targets, label_smoothing, *mixed_with(batch))

    return per_sample_loss


def mixed_with(batch: TrainingBatch) -> tuple[Tensor | None, Tensor | None]:
    """Of mixed views the hard labels of the partners [B] and the share of the own ones [B]."""
    return getattr(batch, "second_targets", None), getattr(batch, "own_share", None)


def cached_loss(label_temperature: float = 1.0, student_temperature: float = 1.0) -> PerSampleLoss:
    """Cross entropy with the labels that the store holds for these very crops."""
    check_temperature("label_temperature", label_temperature)
    check_temperature("student_temperature", student_temperature)

    def per_sample_loss(logits_BC: Tensor, batch: TrainingBatch) -> Tensor:
        if batch.labels is None:
            raise InputError("the loader gives no soft labels: open it with a label store")
        return soft_cross_entropy(logits_BC, batch.labels, label_temperature, student_temperature, reduction="none")

    return per_sample_loss


def online_loss(teacher: nn.Module, label_temperature: float = 1.0, student_temperature: float = 1.0) -> PerSampleLoss:
    """Cross entropy with the teacher's output on the images of the batch: the oracle of `cached_loss`."""
    check_temperature("label_temperature", label_temperature)
    check_temperature("student_temperature", student_temperature)
    teacher.eval()

    def per_sample_loss(logits_BC: Tensor, batch: TrainingBatch) -> Tensor:
        with torch.no_grad(), full_precision(batch.images.device.type):
            probs_BC = torch.softmax(teacher(batch.images).float() / label_temperature, dim=1)
        return F.cross_entropy(logits_BC.float() / student_temperature, probs_BC, reduction="none")

    return per_sample_loss


def cached_use(use: SoftLabelLoss) -> ScheduledLoss:
    """The labels that the store holds for these very crops, used as `use` says."""

    def at(epoch: int) -> PerSampleLoss:
        def per_sample_loss(logits_BC: Tensor, batch: TrainingBatch) -> Tensor:
            if batch.labels is None:
                raise InputError("the loader gives no soft labels: open it with a label store")
            return use.per_sample(logits_BC, batch.labels, batch.targets, epoch, *mixed_with(batch))

        return per_sample_loss

    return ScheduledLoss(at, use.changes)


def online_use(teacher: nn.Module, use: SoftLabelLoss) -> ScheduledLoss:
    """The teacher's output on the images of the batch, used as `use` says: the oracle of `cached_use`."""
    teacher.eval()

    def at(epoch: int) -> PerSampleLoss:
        temperature, _ = use.temperatures(epoch)

        def per_sample_loss(logits_BC: Tensor, batch: TrainingBatch) -> Tensor:
            with torch.no_grad(), full_precision(batch.images.device.type):
                probs_BC = torch.softmax(teacher(batch.images).float() / temperature, dim=1)
            labels = SparseLabels.from_dense(probs_BC)
            return use.per_sample(logits_BC, labels, batch.targets, epoch, *mixed_with(batch))

        return hard_loss(use.label_smoothing) if use.phase(epoch) == "hard" else per_sample_loss

    return ScheduledLoss(at, use.changes)
