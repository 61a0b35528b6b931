"""TopKLabels: the soft labels of a batch of crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels import label_format
from fastlabel.kernels.decode_topk import decode_topk, topk_probabilities
from fastlabel.kernels.label_format import TAIL_MODELS, check_labels, classes_dtype, widen
from fastlabel.labels.indexing import Rows, as_index
from fastlabel.labels.sparse import SparseLabels
from fastlabel.system.arguments import one_of
from fastlabel.system.devices import as_device


def check_temperature(name: str, temperature: float) -> None:
    """Raise InputError unless the temperature is positive and finite."""
    try:
        label_format.check_temperature(name, temperature)
    except ValueError as error:
        raise InputError(str(error)) from None
    except TypeError:
        raise InputError(f"{name} is {temperature!r}, expected a positive finite number") from None


def _signed(tensor: Tensor) -> Tensor:
    """The same bits as signed integers: torch indexes and joins uint16 and uint32 only in part."""
    return tensor.view({torch.uint16: torch.int16, torch.uint32: torch.int32}.get(tensor.dtype, tensor.dtype))


def _take(tensor: Tensor, index: slice | Tensor) -> Tensor:
    """Rows of a label tensor."""
    return _signed(tensor)[index].view(tensor.dtype)


@dataclass(frozen=True, eq=False)
class TopKLabels:
    """B soft labels over `num_classes` classes: the top K of each, and a summary of the rest.

    Attributes:
        classes: uint16 [B, K] (uint32 above 65,536 classes), by descending probability.
        codes: uint8 [B, K], gap of the log-probability below the top one in 1/8 nat; 255 is zero.
        tail: uint16 [B, 2], codes of the mass and of the mean gap outside the top K; see docs/format.md.

    Raises InputError when dtypes, shapes or devices do not fit together; values are not read.
    """

    classes: Tensor
    codes: Tensor
    tail: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("classes", "codes", "tail"):
            one_of(name, getattr(self, name), Tensor, "a tensor")
        one_of("num_classes", self.num_classes, int, "an integer")
        try:
            check_labels(self.classes, self.codes, self.tail, self.num_classes)
        except (TypeError, ValueError) as error:
            raise InputError(f"not labels: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """What is copied, pickled or sent to another process: these labels alone, of a plane no other ones."""
        return _from_signed, (_signed(self.classes), self.codes, _signed(self.tail), self.num_classes)

    def __len__(self) -> int:
        return self.codes.shape[0]

    @property
    def k(self) -> int:
        """Classes kept of each label."""
        return self.codes.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the three tensors are."""
        return self.codes.device

    def _map(self, change: Callable[[Tensor], Tensor]) -> TopKLabels:
        return TopKLabels(change(self.classes), change(self.codes), change(self.tail), self.num_classes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TopKLabels:
        """The same labels on another device."""
        device = as_device(device)
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TopKLabels:
        """The same labels in pinned memory of the host; CUDA only."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: Rows) -> TopKLabels:
        """The labels of some rows: a slice, or integers or booleans as tensor, array or list."""
        index = as_index(rows, len(self), self.device)
        return self._map(lambda tensor: _take(tensor, index))

    def dense(self, temperature: float = 1.0, tail: str = "uniform") -> Tensor:
        """Probabilities of all classes, float32 [B, C].

        `tail` says what becomes of the classes outside the top K. "uniform": an even share of the tail's mass each;
        rows sum to 1 within 1e-5. "renormalise": nothing, and the kept classes are divided by their sum. "zero":
        nothing, and the kept classes stay as they are in the full distribution.
        """
        check_temperature("temperature", temperature)
        if not isinstance(tail, str) or tail not in TAIL_MODELS:
            raise InputError(f"tail is {tail!r}, expected one of {', '.join(map(repr, TAIL_MODELS))}")
        return self._decode(temperature, tail)

    def _decode(self, temperature: float, tail: str) -> Tensor:
        return decode_topk(self.classes, self.codes, self.tail, self.num_classes, temperature, tail)

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


def _from_signed(classes: Tensor, codes: Tensor, tail: Tensor, num_classes: int) -> TopKLabels:
    """Labels of tensors that were made signed: torch pickles no uint16 and no uint32."""
    return TopKLabels(classes.view(classes_dtype(num_classes)), codes, tail.view(torch.uint16), num_classes)


def concatenate(parts: Sequence[TopKLabels]) -> TopKLabels:
    """All labels of several batches, one batch after another; of the same classes, K and device."""
    classes, codes, tail = (
        torch.cat([_signed(tensor) for tensor in tensors]).view(tensors[0].dtype)
        for tensors in zip(*((part.classes, part.codes, part.tail) for part in parts), strict=True)
    )
    return TopKLabels(classes, codes, tail, parts[0].num_classes)


class PlaneLabels(TopKLabels):
    """TopKLabels that are rows of a plane, gathered when `classes`, `codes` or `tail` are first read.

    The loss and `dense` read the plane by row themselves: a batch then needs no more than its row numbers.

    Attributes:
        source: the labels of the plane.
        rows: int64 [B], on the device of the plane.
    """

    source: TopKLabels
    rows: Tensor

    def __init__(self, source: TopKLabels, rows: Tensor) -> None:
        if rows.dtype != torch.int64 or rows.ndim != 1:
            raise InputError(f"rows are {rows.dtype} {tuple(rows.shape)}, expected torch.int64 [B]")
        if rows.device != source.device:
            raise InputError(f"rows are on {rows.device} and labels on {source.device}; move one with .to()")
        for name, value in (("source", source), ("rows", rows), ("num_classes", source.num_classes)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"PlaneLabels({len(self)} of {len(self.source)} labels, k={self.k}, num_classes={self.num_classes})"

    @cached_property
    def classes(self) -> Tensor:
        return _take(self.source.classes, self.rows)

    @cached_property
    def codes(self) -> Tensor:
        return _take(self.source.codes, self.rows)

    @cached_property
    def tail(self) -> Tensor:
        return _take(self.source.tail, self.rows)

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def k(self) -> int:
        return self.source.k

    @property
    def device(self) -> torch.device:
        return self.source.device

    def _decode(self, temperature: float, tail: str) -> Tensor:
        plane = self.source
        return decode_topk(plane.classes, plane.codes, plane.tail, plane.num_classes, temperature, tail, self.rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TopKLabels:
        """The same labels on another device: theirs alone, without the plane."""
        device = as_device(device)
        return self if device == self.device else super().to(device, non_blocking)

    def __getitem__(self, rows: Rows) -> TopKLabels:
        """The labels of some rows of the batch, not yet gathered either."""
        return PlaneLabels(self.source, self.rows[as_index(rows, len(self), self.device)])
