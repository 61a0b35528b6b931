"""Losses of a student against stored labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, float32, float64, full

from fastlabel.errors import InputError
from fastlabel.kernels import soft_cross_entropy as _op
from fastlabel.kernels.transform_cross_entropy import transform_cross_entropy
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels, check_temperature
from fastlabel.labels.transform import TransformLabels
from fastlabel.system.arguments import boolean, one_of

SoftLabels = TopKLabels | SparseLabels
EXTREME = 1e30  # temperatures beyond, or below its inverse, leave float32


def soft_cross_entropy(
    logits: Tensor,
    labels: SoftLabels,
    label_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: str = "mean",
    *,
    targets: Tensor | None = None,
    target_weight: Tensor | float | None = None,
    second: SoftLabels | None = None,
    mix: Tensor | float | None = None,
    temperature_squared: bool = False,
    divergence: str = "cross-entropy",
) -> Tensor:
    """Cross-entropy in nats of logits [B, C] against B soft labels, differentiable once, in the logits.

    Equals `F.cross_entropy(logits / student_temperature, labels.dense(label_temperature))` without the dense target.
    With other arguments the target is

        (1 - target_weight) * (mix * labels + (1 - mix) * second) + target_weight * one_hot(targets).

    Args:
        logits: float32, bfloat16 or float16, computed in float32; or float64.
        labels: of a store, or SparseLabels, which were tempered when they were made.
        label_temperature: divides the teacher's logits. Alone, it is the setting of the soft-label papers.
            A high one asks for what the labels kept least of, the classes outside their top K: T = 20 loses two thirds
            of the information of the top 16 of 1,000 classes. Labels with a transform keep more.
        student_temperature: divides the student's logits, for all parts of the target.
        reduction: "mean" or "sum" over the batch, or "none": one loss per row.
        targets, target_weight: hard labels, int64 [B], and their share, a number or floating [B].
        second, mix: the second labels of Mixup or CutMix, and the share of the first, a number or floating [B].
        temperature_squared: multiply by student_temperature ** 2. With both temperatures equal this is Hinton's
            distillation (2015), whose gradient keeps its size as they grow.
        divergence: "cross-entropy", or "kl", which is less by the entropy of the whole target: the same gradient.

    Under torch.compile a number (a share, a temperature) that changes from step to step compiles the step again; a
    tensor does not, so give shares that change as tensors.

    The result for a label that lists a class twice is undefined (see SparseLabels).

    Raises InputError when arguments do not fit together, or on another value of an option. Ids out of range (a class
    of a label, a target) are an error on the CPU; on a GPU, which would have to wait, the loss of that row is NaN.
    """
    one_of("targets", targets, (Tensor, type(None)), "a tensor int64 [B]")
    boolean("temperature_squared", temperature_squared)
    check_temperature("label_temperature", label_temperature)
    check_student_temperature(student_temperature)
    _check_labels("labels", labels, logits)
    if second is not None:
        _check_labels("second", second, logits)
    if second is not None and isinstance(second, SparseLabels) != isinstance(labels, SparseLabels):
        raise InputError(
            f"labels are {type(labels).__name__} and second {type(second).__name__}; "
            "make both sparse: labels.sparse(temperature)"
        )
    is_alone = all(other is None for other in (second, mix, targets, target_weight))
    if isinstance(labels, TransformLabels) and is_alone:
        return _of_transform(
            logits, labels, label_temperature, student_temperature, reduction, temperature_squared, divergence
        )
    if isinstance(labels, TransformLabels) or isinstance(second, TransformLabels):
        labels = _tempered(labels, label_temperature)
        second = None if second is None else _tempered(second, label_temperature)
        label_temperature = 1.0
    try:
        target = _op.Target(
            _tensors(labels),
            label_temperature,
            None if second is None else _tensors(second),
            _per_row("mix", mix, logits),
            targets,
            _per_row("target_weight", target_weight, logits),
        )
        return _op.soft_cross_entropy(
            logits,
            target,
            student_temperature,
            reduction,
            temperature_squared=temperature_squared,
            divergence=divergence,
        )
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def _of_transform(
    logits: Tensor,
    labels: TransformLabels,
    label_temperature: float,
    student_temperature: float,
    reduction: str,
    squared: bool,
    divergence: str,
) -> Tensor:
    """The loss against labels with a transform alone."""
    tensors = labels.classes, labels.codes, labels.tail, labels.coefficients, labels.basis.wide, labels.step
    options: dict[str, Any] = {"temperature_squared": squared, "divergence": divergence}
    try:
        return transform_cross_entropy(logits, *tensors, label_temperature, student_temperature, reduction, **options)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def _tempered(labels: SoftLabels, temperature: float) -> SparseLabels:
    """Labels as weighted classes: what a transform says of all of them, the op does not decode."""
    return labels if isinstance(labels, SparseLabels) else labels.sparse(temperature)


def _tensors(labels: SoftLabels) -> _op.Labels:
    """As the op takes them; rows of a plane are gathered there."""
    if isinstance(labels, SparseLabels):
        return _op.Labels(labels.classes, labels.probs, labels.rest)
    classes, codes, tail = labels.plane
    return _op.Labels(classes, codes, tail, labels.rows)


def _per_row(name: str, share: Tensor | float | None, logits: Tensor) -> Tensor | None:
    """A share of each row, from one number or one for each; only logits get a gradient."""
    if isinstance(share, Tensor):
        if share.requires_grad:
            raise InputError(f"{name} requires a gradient, which only logits get; give {name}.detach()")
        return share.expand(len(logits)) if share.ndim == 0 else share
    if share is None:
        return None
    try:
        inside = 0 <= share <= 1
    except TypeError:
        inside = False
    if not inside:
        raise InputError(f"{name} is {share!r}, expected 0 to 1: a number, or a tensor of one for each row")
    dtype = float64 if logits.dtype == float64 else float32
    return full(logits.shape[:1], float(share), dtype=dtype, device=logits.device)


def check_student_temperature(temperature: float) -> None:
    """InputError unless logits divided by it stay in float32."""
    check_temperature("student_temperature", temperature)
    if not EXTREME**-1 <= temperature <= EXTREME:
        raise InputError(f"student_temperature is {temperature}, expected {EXTREME**-1:g} to {EXTREME:g}")


def _check_labels(name: str, labels: SoftLabels, logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise InputError(f"logits are {type(logits).__name__}, expected a tensor [B, C]")
    given: object = labels
    if isinstance(given, Tensor):
        raise InputError(
            f"{name} are a tensor {given.dtype} {tuple(given.shape)}, expected labels of a store or SparseLabels: "
            "of dense probabilities make SparseLabels.from_dense(probs), of classes SparseLabels.hard(targets, C), or "
            "call torch.nn.functional.cross_entropy, which takes both"
        )
    if not isinstance(given, TopKLabels | SparseLabels):
        raise InputError(f"{name} are {type(given).__name__}, expected labels of a store or SparseLabels")
    if logits.shape != (len(labels), labels.num_classes):
        raise InputError(
            f"logits have shape {tuple(logits.shape)}, expected {(len(labels), labels.num_classes)} as {name}"
        )
    if logits.device != labels.device:
        raise InputError(f"logits are on {logits.device} and {name} on {labels.device}; move one with .to()")
    if isinstance(labels, SparseLabels) and (labels.probs.requires_grad or labels.rest.requires_grad):
        raise InputError(f"{name} require a gradient, which only logits get; detach their probs and rest")
