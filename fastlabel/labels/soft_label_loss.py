"""SoftLabelLoss: how a student uses its labels, from epoch to epoch. The same object trains in `train-student`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.label_format import widen
from fastlabel.labels import dense_losses
from fastlabel.labels.choices import LOSSES, TAILS
from fastlabel.labels.loss import SoftLabels, check_student_temperature, soft_cross_entropy
from fastlabel.labels.ops.edit import keep_top
from fastlabel.labels.schedules import Phases, TemperatureSchedule
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform import TransformLabels
from fastlabel.system.arguments import at_least, boolean

_WITHOUT_TEMPERATURE = ("mse-logits", "gift")  # they compare logits


@dataclass(frozen=True)
class SoftLabelLoss:
    """A loss of logits against soft labels, and what becomes of the labels before: docs/recipes.md.

    `loss(logits, labels, targets, epoch=e)` is the mean over a batch, differentiable in the logits.

    Args:
        loss: "soft-ce", "kl", "mse-logits", "gift" or "dist".
        label_temperature: divides the teacher's logits: a number, "step:START,FACTOR,EVERY,LEAST" or
            "cosine:START,END".
        student_temperature: divides the student's logits, likewise.
        temperature_squared: multiply soft-ce and kl by the squared temperature of the student; dist has it already.
        keep: classes of a label that are used, by descending probability; all that it has by default.
        tail: what becomes of the others: "uniform" (an even share each), "renormalise" (nothing; the kept ones are
            divided by their sum) or "zero" (nothing).
        hard_weight: share of the cross-entropy with the hard label, whose temperature is 1; the soft loss has the rest.
        label_smoothing: of the hard label, there and in hard phases.
        phases: which labels each epoch uses, such as "soft:75,hard:150,soft:75"; all soft by default.
        epochs: of the whole training. Phases and cosine schedules need it.

    Raises InputError for values that cannot be used, or not together.
    """

    loss: str = "soft-ce"
    label_temperature: float | str = 1.0
    student_temperature: float | str = 1.0
    temperature_squared: bool = False
    keep: int | None = None
    tail: str = "uniform"
    hard_weight: float = 0.0
    label_smoothing: float = 0.0
    phases: str | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("loss", self.loss, LOSSES), ("tail", self.tail, TAILS)):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}: known are {', '.join(known)}")
        boolean("temperature_squared", self.temperature_squared)
        for name in ("keep", "epochs"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name, below in (("hard_weight", " to 1"), ("label_smoothing", " and below 1")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"{name} is {value!r}, expected 0{below}")
        if self.label_smoothing == 1:
            raise InputError(f"label_smoothing is {self.label_smoothing}, expected 0 and below 1")
        # Parsed here, so that what is wrong is an error at once.
        for temperature in (self.schedules[1].start, self.schedules[1].end):
            check_student_temperature(temperature)
        needs_epochs = [schedule.plain() for schedule in self.schedules if schedule.kind == "cosine"] + [self.phases]
        if self.epochs is None and any(needs_epochs):
            raise InputError(f"{next(filter(None, needs_epochs))} needs the number of epochs: give epochs=")
        _ = self._phases
        self._check_together()

    def _check_together(self) -> None:
        if self.loss in _WITHOUT_TEMPERATURE:
            if any(schedule.plain() != 1 for schedule in self.schedules):
                raise InputError(f"{self.loss} compares logits, which have no temperature: leave temperatures at 1")
            if self.keep is not None or self.tail != "uniform":
                raise InputError(f"{self.loss} compares the logits of all classes: leave out keep, and tail at uniform")
        if self.temperature_squared and self.loss not in ("soft-ce", "kl"):
            raise InputError(f"temperature_squared is for soft-ce and kl, not for {self.loss}: leave it off")

    @cached_property
    def schedules(self) -> tuple[TemperatureSchedule, TemperatureSchedule]:
        """Temperatures of the labels and of the student."""
        return (
            TemperatureSchedule.parse("label_temperature", self.label_temperature),
            TemperatureSchedule.parse("student_temperature", self.student_temperature),
        )

    @cached_property
    def _phases(self) -> Phases | None:
        return None if self.phases is None else Phases.parse(self.phases, self.epochs or 0)

    @property
    def needs_targets(self) -> bool:
        """Whether hard labels are used as well."""
        return self.hard_weight > 0 or self.phases is not None or self.loss == "gift"

    def phase(self, epoch: int) -> str:
        """Whether epoch 0, 1, ... trains on "soft" or "hard" labels."""
        return "soft" if self._phases is None else self._phases.at(epoch)

    def temperatures(self, epoch: int) -> tuple[float, float]:
        """Of the labels and of the student in epoch 0, 1, ..."""
        label, student = (schedule.at(epoch, self.epochs or 1) for schedule in self.schedules)
        return label, student

    def changes(self, epoch: int) -> dict[str, float | str]:
        """What epoch 0, 1, ... has of its own: temperatures that are scheduled, and the phase."""
        names = ("label_temperature", "student_temperature")
        own: dict[str, float | str] = {
            name: round(value, 6)
            for name, schedule, value in zip(names, self.schedules, self.temperatures(epoch), strict=True)
            if not schedule.constant
        }
        return own if self._phases is None else {**own, "phase": self.phase(epoch)}

    def check_labels(self, k: int, num_classes: int, transform: bool = False) -> None:
        """InputError unless labels of the top k classes, or with a transform, can be used so."""
        most = num_classes if transform else k
        if self.keep is not None and self.keep > most:
            raise InputError(f"keep is {self.keep}, and the labels list {most} classes: keep at most so many")
        if transform and self.tail != "uniform" and self.keep is None:
            raise InputError(
                f"tail is {self.tail!r}: labels with a transform know all classes; say with keep how many to use"
            )

    def __call__(
        self,
        logits: Tensor,
        labels: SoftLabels,
        targets: Tensor | None = None,
        epoch: int = 0,
        reduction: str = "mean",
        second_targets: Tensor | None = None,
        own_share: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits [B, C] against B labels (and hard labels int64 [B]) in epoch 0, 1, ...

        `reduction` is "mean" or "sum" over the batch, or "none". SparseLabels were tempered when they were made. The
        hard label of a mixed crop is own_share * targets + (1 - own_share) * second_targets: give those of the batch.
        """
        if reduction not in ("mean", "sum", "none"):
            raise InputError(f"reduction is {reduction!r}, expected 'mean', 'sum' or 'none'")
        losses_B = self.per_sample(logits, labels, targets, epoch, second_targets, own_share)
        if reduction == "none":
            return losses_B
        return losses_B.sum() / max(1, len(losses_B)) if reduction == "mean" else losses_B.sum()

    def per_sample(
        self,
        logits: Tensor,
        labels: SoftLabels,
        targets: Tensor | None = None,
        epoch: int = 0,
        second_targets: Tensor | None = None,
        own_share: Tensor | None = None,
    ) -> Tensor:
        """One loss for each row [B]."""
        if self.needs_targets and targets is None:
            raise InputError("hard labels are used too (hard_weight, phases or gift): give targets int64 [B]")
        if (second_targets is None) != (own_share is None):
            raise InputError("second_targets and own_share go together: give both, or none")
        mixed = (second_targets, own_share)
        weight = 1.0 if self.phase(epoch) == "hard" else self.hard_weight
        if weight == 0:
            return self._soft(logits, labels, targets, epoch, *mixed)
        assert targets is not None
        hard_B = hard_cross_entropy(logits, targets, self.label_smoothing, *mixed)
        return (
            hard_B
            if weight == 1
            else (1 - weight) * self._soft(logits, labels, targets, epoch, *mixed) + weight * hard_B
        )

    def _soft(
        self,
        logits: Tensor,
        labels: SoftLabels,
        targets: Tensor | None,
        epoch: int,
        second_targets: Tensor | None,
        own_share: Tensor | None,
    ) -> Tensor:
        label_temperature, student_temperature = self.temperatures(epoch)
        if self.loss == "mse-logits":
            return dense_losses.mse_logits(logits, labels)
        if self.loss == "gift":
            assert targets is not None
            return dense_losses.gift(logits, labels, targets, second_targets, own_share)
        used = used_labels(labels, label_temperature, self.keep, self.tail)
        if self.loss == "dist":
            probs_BC = dense_losses.dense_probabilities(used, label_temperature, torch.float32)
            return dense_losses.dist(logits, probs_BC, student_temperature)
        return soft_cross_entropy(
            logits,
            used,
            1.0 if isinstance(used, SparseLabels) else label_temperature,
            student_temperature,
            reduction="none",
            temperature_squared=self.temperature_squared,
            divergence="kl" if self.loss == "kl" else "cross-entropy",
        )


def hard_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    second_targets: Tensor | None = None,
    own_share: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each row with its class [B]; with two, own_share * that and the rest with the second one."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    first_B = F.cross_entropy(wide, targets, label_smoothing=label_smoothing, reduction="none")
    if second_targets is None or own_share is None:
        return first_B
    second_B = F.cross_entropy(wide, second_targets, label_smoothing=label_smoothing, reduction="none")
    return own_share * first_B + (1 - own_share) * second_B


def used_labels(labels: SoftLabels, temperature: float, keep: int | None, tail: str) -> SoftLabels:
    """Labels with `keep` of their classes at a temperature, the others as `tail` says; as they are where that is all.

    The same as `label_ops.keep_top` of the tempered label; of a stored label its first classes, which are sorted.
    """
    if keep is None and tail == "uniform":
        return labels
    if isinstance(labels, TransformLabels) and keep is None:
        raise InputError(f"tail is {tail!r}: labels with a transform know all classes; say with keep how many to use")
    if isinstance(labels, SparseLabels | TransformLabels):
        sparse = labels if isinstance(labels, SparseLabels) else labels.sparse(temperature)
        rest = {"uniform": "tail", "renormalise": "renormalise", "zero": "zero"}[tail]
        return keep_top(sparse, sparse.width if keep is None else keep, rest)  # type: ignore[arg-type]
    return _first(labels, temperature, labels.k if keep is None else keep, tail)


def _first(labels: TopKLabels, temperature: float, keep: int, tail: str) -> SparseLabels:
    if keep > labels.k:
        raise InputError(f"keep is {keep}, and the labels list {labels.k} classes: keep at most so many")
    probs_BK, even_B = (tensor.double() for tensor in labels.probabilities(temperature))
    kept_BK, rest_B = probs_BK[:, :keep], torch.zeros_like(even_B)
    if tail == "renormalise":
        kept_BK = kept_BK / kept_BK.sum(1, keepdim=True)
    elif tail == "uniform" and keep < labels.num_classes:
        others_B = probs_BK[:, keep:].sum(1) + (labels.num_classes - labels.k) * even_B
        rest_B = others_B / (labels.num_classes - keep)
    classes = widen(labels.classes)[:, :keep].to(torch.int32)
    return SparseLabels(classes, kept_BK.float(), rest_B.float(), labels.num_classes)
