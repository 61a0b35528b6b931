"""TopKLabels: the soft labels of a batch of crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.decode_topk import decode_topk, topk_probabilities
from fastlabel.kernels.label_format import check_labels

Rows = slice | Tensor | np.ndarray | Sequence[int]


def check_temperature(name: str, temperature: float) -> None:
    """Raise InputError unless the temperature is positive and finite."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"{name} is {temperature}, expected a positive finite number")


def _as_index(rows: Rows, device: torch.device) -> slice | Tensor:
    """Rows as torch indexes them; NumPy arrays are copied, since torch warns about read-only ones."""
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, Tensor):
        index = rows.to(device)
    elif isinstance(rows, np.ndarray | Sequence):
        array = np.asarray(rows, dtype=None if len(rows) else np.int64)
        if array.dtype.kind not in "iub":
            raise InputError(f"rows have dtype {array.dtype}, expected integers or booleans")
        index = torch.tensor(array if array.dtype == np.bool_ else array.astype(np.int64), device=device)
    else:
        raise InputError(
            f"rows are {type(rows).__name__}, expected a slice or an array of rows; labels[i:i + 1] is one"
        )
    if index.ndim != 1:
        raise InputError(f"rows have shape {tuple(index.shape)}, expected one dimension")
    return index


def _take(tensor: Tensor, index: slice | Tensor) -> Tensor:
    """Rows of a label tensor; as signed integers, since torch indexes uint16 and uint32 only in part."""
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32}.get(tensor.dtype, tensor.dtype)
    return tensor.view(signed)[index].view(tensor.dtype)


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
        try:
            check_labels(self.classes, self.codes, self.tail, self.num_classes)
        except (TypeError, ValueError) as error:
            raise InputError(f"not labels: {error}") from None

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
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def __getitem__(self, rows: Rows) -> TopKLabels:
        """The labels of some rows: a slice, or integers or booleans as tensor, array or list."""
        index = _as_index(rows, self.device)
        return self._map(lambda tensor: _take(tensor, index))

    def dense(self, temperature: float = 1.0) -> Tensor:
        """Probabilities of all classes, float32 [B, C]; rows sum to 1 within 1e-5."""
        check_temperature("temperature", temperature)
        return decode_topk(self.classes, self.codes, self.tail, self.num_classes, temperature)

    def probabilities(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Probabilities of the kept classes [B, K], and of each single class of the tail [B]; float32."""
        check_temperature("temperature", temperature)
        return topk_probabilities(self.codes, self.tail, self.num_classes, temperature)
