"""TransformLabels: labels whose tail is a transform of all logits, so that one label serves every temperature."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.label_format import widen
from fastlabel.kernels.transform import decode_offset_reference, decoded_logits_reference, transform_probabilities
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import LabelTensors, TopKLabels, check_temperature
from fastlabel.system.arguments import one_of
from fastlabel.system.devices import as_device


class TransformTensors(NamedTuple):
    """The four tensors of P labels, as `TransformLabels` describes them."""

    classes: Tensor
    codes: Tensor
    tail: Tensor
    coefficients: Tensor


class TransformLabels(TopKLabels):
    """B soft labels: the top K classes of each, exact as in `TopKLabels`, and R coefficients of all logits.

    At every temperature T the label is softmax(logits() / T).

    Args:
        classes, codes, tail, rows: as of `TopKLabels`.
        coefficients: int8 [P, R], in steps of `step` nats, on `basis`.
        has_offset: whether the second value of `tail` is the code of the mean logit.

    Raises:
        InputError: dtypes, shapes or devices do not fit together; values are not read.
    """

    plane: Any

    def __init__(
        self,
        classes: Tensor,
        codes: Tensor,
        tail: Tensor,
        coefficients: Tensor,
        basis: TransformBasis,
        step: float,
        rows: Tensor | None = None,
        has_offset: bool = False,
    ) -> None:
        one_of("basis", basis, TransformBasis, "a TransformBasis")
        one_of("coefficients", coefficients, Tensor, "a tensor int8 [P, R]")
        super().__init__(classes, codes, tail, basis.num_classes, rows)
        shape = (len(codes), basis.num_components)
        if coefficients.dtype != torch.int8 or coefficients.shape != shape:
            raise InputError(
                f"not labels: coefficients are {coefficients.dtype} {tuple(coefficients.shape)}, expected int8 {shape}"
            )
        if {coefficients.device, basis.rows.device} != {codes.device}:
            raise InputError(
                f"not labels: coefficients are on {coefficients.device}, the basis on {basis.rows.device} and codes on "
                f"{codes.device}, expected one device"
            )
        self.plane = TransformTensors(classes, codes, tail, coefficients)
        self.basis, self.step, self.has_offset = basis, step, has_offset

    def __repr__(self) -> str:
        share = "" if self.rows is None else f" of {len(self.plane.codes)}"
        return (
            f"TransformLabels({len(self)}{share} labels, k={self.k}, components={self.basis.num_components}, "
            f"step={self.step}, num_classes={self.num_classes})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        plain = TopKLabels(self.classes, self.codes, self.tail, self.num_classes)
        return _from_parts, (plain, self.coefficients, self.basis, self.step, self.has_offset)

    @property
    def format(self) -> tuple[Any, ...]:
        return *super().format, self.basis.digest, self.step, "logit offset" if self.has_offset else "no logit offset"

    @property
    def coefficients(self) -> Tensor:
        """Codes of the coefficients [B, R], int8."""
        tensors: Any = self._gathered
        found: Tensor = tensors.coefficients
        return found

    @property
    def head(self) -> TopKLabels:
        """The same labels without the transform: the top K and a flat tail."""
        tail = self.tail
        if self.has_offset:  # a mean gap to others
            tail = tail.clone()
            tail.view(torch.int16)[:, 1] = -1  # UNDEFINED_MEAN_GAP
        return TopKLabels(self.classes, self.codes, tail, self.num_classes)

    @property
    def mean_logits(self) -> Tensor | None:
        """The mean over all classes of the teacher's logits, float32 [B], nats; None where it was not stored."""
        return decode_offset_reference(self.tail[:, 1]) if self.has_offset else None

    def _with(self, tensors: Any, rows: Tensor | None = None) -> TransformLabels:
        classes, codes, tail, coefficients = tensors
        basis = self.basis.to(classes.device)
        return TransformLabels(classes, codes, tail, coefficients, basis, self.step, rows, self.has_offset)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TransformLabels:
        device = as_device(device)
        if device == self.device:
            return self
        return self._with(tuple(tensor.to(device, non_blocking=non_blocking) for tensor in self._gathered))

    def logits(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits of all classes [B, C] in nats below the top one's, which is 0; -inf is a probability of zero.

        Raises InputError where a label names a class that there is not.
        """
        label: Any = self._gathered
        if self.device.type == "cpu" and len(label.classes) and int(widen(label.classes).max()) >= self.num_classes:
            raise InputError(f"a label has a class that is none of the {self.num_classes}")
        return decoded_logits_reference(
            label.classes,
            label.codes,
            label.tail,
            label.coefficients,
            self.basis.mean,
            self.basis.components,
            self.step,
            dtype,
        )

    def dense(self, temperature: float = 1.0, tail: str = "uniform") -> Tensor:
        """Probabilities of all classes, float32 [B, C]: softmax(logits() / temperature).

        `tail` is "uniform", which here leaves the tail as the transform says it is. InputError for another one: the
        tail models are of labels that keep the top K alone (`head`).
        """
        check_temperature("temperature", temperature)
        if tail != "uniform":
            raise InputError(
                f"tail is {tail!r}: labels with a transform know their tail; take labels.head.dense(tail={tail!r}) of "
                "the top K alone"
            )
        classes, codes, mass, coefficients = tuple[Tensor, ...](self._gathered)
        basis = self.basis.mean, self.basis.components, self.step
        try:
            return transform_probabilities(classes, codes, mass, coefficients, *basis, temperature)
        except ValueError as error:
            raise InputError(str(error)) from None

    def probabilities(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Probabilities of the kept classes [B, K], and the mean one of a class of the tail [B]; float32."""
        dense_BC = self.dense(temperature)
        kept_BK = dense_BC.gather(1, widen(self.classes).to(torch.int64))
        rest = max(1, self.num_classes - self.k)
        return kept_BK, (1 - kept_BK.sum(1)).clamp(min=0) / rest

    def sparse(self, temperature: float = 1.0) -> SparseLabels:
        """The same distributions with every class listed, to edit and mix (fastlabel.label_ops)."""
        probs_BC = self.dense(temperature)
        classes_BC = torch.arange(self.num_classes, dtype=torch.int32, device=self.device).repeat(len(self), 1)
        return SparseLabels(classes_BC, probs_BC, torch.zeros_like(probs_BC[:, 0]), self.num_classes)


def _from_parts(
    head: TopKLabels, coefficients: Tensor, basis: TransformBasis, step: float, has_offset: bool = False
) -> TransformLabels:
    tensors: LabelTensors = head.plane
    return TransformLabels(*tensors, coefficients, basis, step, has_offset=has_offset)
