"""TopKLabels: the soft labels of a batch of crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels import label_format
from fastlabel.kernels.decode_topk import decode_topk, topk_probabilities
from fastlabel.kernels.label_format import (
    TAIL_MODELS,
    check_labels,
    check_rows,
    classes_dtype,
    signed,
    take_rows,
    widen,
)
from fastlabel.labels.indexing import Rows, as_index
from fastlabel.labels.sparse import SparseLabels, check_targets
from fastlabel.system.arguments import integer, one_of
from fastlabel.system.devices import as_device


def check_temperature(name: str, temperature: float) -> None:
    """Raise InputError unless the temperature is positive and finite."""
    try:
        label_format.check_temperature(name, temperature)
    except ValueError as error:
        raise InputError(str(error)) from None
    except TypeError:
        raise InputError(f"{name} is {temperature!r}, expected a positive finite number") from None


def _check_rows(rows: Tensor | None, codes: Tensor) -> None:
    try:
        check_rows(rows, codes)
    except (TypeError, ValueError) as error:
        raise InputError(f"not labels: {error}") from None


class LabelTensors(NamedTuple):
    """The three tensors of P labels, as `TopKLabels` describes them."""

    classes: Tensor
    codes: Tensor
    tail: Tensor


class TopKLabels:
    """B soft labels over `num_classes` classes: the top K of each, and a summary of the rest.

    Either all labels of the tensors given, or, with `rows`, some of them: of a plane, say. Those are gathered when
    `classes`, `codes` or `tail` is first read. The loss and `dense` read the plane by row themselves: a batch then
    needs no more than its row numbers.

    Args:
        classes: uint16 [P, K] (uint32 above 65,536 classes), by descending probability.
        codes: uint8 [P, K], gap of the log-probability below the top one in 1/8 nat; 255 is zero.
        tail: uint16 [P, 2], codes of the mass and of the mean gap outside the top K; see docs/format.md.
        num_classes: C.
        rows: int64 [B], which of the P labels these are, 0 to P - 1; all of them in order without it.

    Attributes:
        plane: the three tensors, as given.
        rows, num_classes: as given.

    Raises:
        InputError: dtypes, shapes or devices do not fit together; values are not read.
    """

    def __init__(
        self, classes: Tensor, codes: Tensor, tail: Tensor, num_classes: int, rows: Tensor | None = None
    ) -> None:
        for name, tensor in (("classes", classes), ("codes", codes), ("tail", tail)):
            one_of(name, tensor, Tensor, "a tensor")
        one_of("num_classes", num_classes, int, "an integer")
        one_of("rows", rows, (Tensor, type(None)), "a tensor int64 [B]")
        try:
            check_labels(classes, codes, tail, num_classes)
        except (TypeError, ValueError) as error:
            raise InputError(f"not labels: {error}") from None
        _check_rows(rows, codes)
        self.plane: Any = LabelTensors(classes, codes, tail)
        self.rows = rows
        self.num_classes = num_classes

    def __repr__(self) -> str:
        share = "" if self.rows is None else f" of {len(self.plane.codes)}"
        return f"TopKLabels({len(self)}{share} labels, k={self.k}, num_classes={self.num_classes})"

    def __reduce__(self) -> tuple[Any, ...]:
        """What is copied, pickled or sent to another process: these labels alone, of a plane no other ones."""
        return _from_signed, (signed(self.classes), self.codes, signed(self.tail), self.num_classes)

    def __len__(self) -> int:
        return len(self.plane.codes if self.rows is None else self.rows)

    @property
    def format(self) -> tuple[Any, ...]:
        """What labels must have in common to be one batch: classes, K and all else that their codes mean."""
        return type(self).__name__, self.num_classes, self.k

    @cached_property
    def _gathered(self) -> LabelTensors:
        """The tensors of these labels alone."""
        rows, plane = self.rows, self.plane
        if rows is None:
            return plane
        # index_select takes a third of the time of tensor[rows] and less, and no negative row for one from the end.
        parts = [tensor.index_select(0, rows) for tensor in self._signed_plane]
        pairs = zip(parts, plane, strict=True)
        return type(plane)(*[part if part.dtype == full.dtype else part.view(full.dtype) for part, full in pairs])

    @cached_property
    def _signed_plane(self) -> list[Tensor]:
        return [signed(tensor) for tensor in self.plane]

    @property
    def classes(self) -> Tensor:
        """Class ids [B, K], uint16 or uint32."""
        return self._gathered.classes

    @property
    def codes(self) -> Tensor:
        """Codes of the gaps [B, K], uint8."""
        return self._gathered.codes

    @property
    def tail(self) -> Tensor:
        """Codes of the classes outside the top K [B, 2], uint16."""
        return self._gathered.tail

    @property
    def k(self) -> int:
        """Classes kept of each label."""
        return int(self.plane.codes.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        device: torch.device = self.plane.codes.device
        return device

    def _map(self, change: Callable[[Tensor], Tensor]) -> TopKLabels:
        return self._with(tuple(map(change, self._gathered)))

    def _with(self, tensors: Any, rows: Tensor | None = None) -> TopKLabels:
        """Labels of the same kind of other tensors."""
        classes, codes, tail = tensors
        return TopKLabels(classes, codes, tail, self.num_classes, rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TopKLabels:
        """The same labels on another device: theirs alone, without the plane."""
        device = as_device(device)
        return self if device == self.device else self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TopKLabels:
        """The same labels in pinned memory of the host; CUDA only."""
        return self._map(lambda tensor: tensor.pin_memory())

    def on_host(self, copy: Callable[[Tensor], Tensor]) -> TopKLabels:
        """These labels with tensors on the CPU, each as `copy` brings it there."""
        return self._map(copy)

    def take(self, rows_B: Tensor) -> TopKLabels:
        """Labels of some rows, int64 0 to B - 1 on the device of these; gathered when they are read."""
        rows = rows_B if self.rows is None else self.rows[rows_B]
        _check_rows(rows, self.plane.codes)
        # What was checked for the plane, and its signed views, serve every batch.
        known = {"_signed_plane": self._signed_plane, **self.__dict__, "rows": rows}
        known.pop("_gathered", None)
        taken = object.__new__(type(self))
        taken.__dict__.update(known)
        return taken

    def __getitem__(self, rows: Rows) -> TopKLabels:
        """The labels of some rows: a slice, or integers or booleans as tensor, array or list."""
        index = as_index(rows, len(self), self.device)
        if self.rows is None:
            return self._map(lambda tensor: take_rows(tensor, index))
        return self._with(self.plane, self.rows[index])

    def dense(self, temperature: float = 1.0, tail: str = "uniform") -> Tensor:
        """Probabilities of all classes, float32 [B, C].

        `tail` says what becomes of the classes outside the top K. "uniform": an even share of the tail's mass each;
        rows sum to 1 within 1e-5. "renormalise": nothing, and the kept classes are divided by their sum. "zero":
        nothing, and the kept classes stay as they are in the full distribution.
        """
        check_temperature("temperature", temperature)
        if not isinstance(tail, str) or tail not in TAIL_MODELS:
            raise InputError(f"tail is {tail!r}, expected one of {', '.join(map(repr, TAIL_MODELS))}")
        classes, codes, tails = self.plane
        return decode_topk(classes, codes, tails, self.num_classes, temperature, tail, self.rows)

    def probabilities(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Probabilities of the kept classes [B, K], and of each single class of the tail [B]; float32."""
        check_temperature("temperature", temperature)
        return topk_probabilities(self.codes, self.tail, self.num_classes, temperature)

    def sparse(self, temperature: float = 1.0) -> SparseLabels:
        """The same distributions as weighted classes and an even tail, to edit and mix (fastlabel.label_ops).

        The temperature is applied now, while the labels still are logits: tempering comes before every edit.
        `sparse(T).dense()` equals `dense(T)`.
        """
        probs_BK, tail_B = self.probabilities(temperature)
        return SparseLabels(widen(self.classes).to(torch.int32), probs_BK, tail_B, self.num_classes)

    def entropy(self, temperature: float = 1.0) -> Tensor:
        """Entropy of each label in nats, float64 [B]: with an even tail, as `dense(temperature)` has it."""
        from fastlabel.labels.ops.measure import entropy  # the ops import this module

        return entropy(self.sparse(temperature))

    def topk_accuracy(self, targets: Tensor, k: int = 1) -> float:
        """Share of the B labels that have their target, int64 [B], among their k most probable classes; NaN for B = 0.

        Raises InputError unless k is 1 to K, the classes that labels keep, and targets are B classes.
        """
        if not 1 <= integer("k", k) <= self.k:
            raise InputError(f"k is {k}, expected 1 to the {self.k} classes that these labels keep")
        one_of("targets", targets, Tensor, "a tensor of integers [B]")
        check_targets("targets", targets, self.num_classes)
        if len(targets) != len(self):
            raise InputError(f"{len(targets)} targets are given for {len(self)} labels, expected one for each")
        first_BK = widen(self.classes[:, :k]).to(torch.int64)
        return (first_BK == targets.to(self.device)[:, None]).any(1).double().mean().item()


def _from_signed(classes: Tensor, codes: Tensor, tail: Tensor, num_classes: int) -> TopKLabels:
    """Labels of tensors that were made signed: torch pickles no uint16 and no uint32."""
    return TopKLabels(classes.view(classes_dtype(num_classes)), codes, tail.view(torch.uint16), num_classes)


def concatenate(parts: Sequence[TopKLabels]) -> TopKLabels:
    """All labels of several batches, one batch after another; of the same classes, K and device.

    Raises InputError where they are not of one format.
    """
    kinds = {part.format for part in parts}
    if len(kinds) != 1:
        raise InputError(f"labels of {len(kinds)} formats cannot be joined, expected one: {sorted(map(str, kinds))}")
    joined = (
        torch.cat([signed(tensor) for tensor in tensors]).view(tensors[0].dtype)
        for tensors in zip(*(part._gathered for part in parts), strict=True)
    )
    return parts[0]._with(tuple(joined))
