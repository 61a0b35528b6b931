"""TopKCodec: a teacher's logits to labels. docs/format.md says what becomes of one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.encode_topk import encode_topk
from fastlabel.kernels.label_format import CODES_PER_NAT, LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT
from fastlabel.labels.topk import TopKLabels
from fastlabel.system.arguments import one_of

TOPK_FORMAT = {
    "name": "topk-log8",
    "codes_per_nat": CODES_PER_NAT,
    "log_odds_per_nat": LOG_ODDS_PER_NAT,
    "log_odds_offset": LOG_ODDS_OFFSET,
}


def storable(logits_BC: Tensor) -> Tensor:
    """Whether each row (bool [B]) is a distribution: no NaN, no +inf, not nothing but -inf. Nothing waits for a GPU."""
    return logits_BC.detach().amax(dim=1).isfinite()


def unstorable_rows(logits_BC: Tensor) -> Tensor:
    """Rows (int64, ascending) that are not `storable`."""
    return (~storable(logits_BC)).nonzero().squeeze(1)


def _check_values(logits_BC: Tensor) -> None:
    bad = unstorable_rows(logits_BC)
    if not len(bad):
        return
    top = logits_BC.detach().amax(dim=1)[bad]
    found = {"NaN": top.isnan(), "+inf": top == torch.inf, "nothing but -inf": top == -torch.inf}
    counts = ", ".join(f"{int(rows.sum())} with {what}" for what, rows in found.items() if rows.any())
    first = ", ".join(str(row) for row in bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
    raise InputError(
        f"{len(bad)} of {len(logits_BC)} rows of logits cannot be stored ({counts}): rows {first}; "
        "expected finite logits (single ones may be -inf)"
    )


@dataclass(frozen=True)
class TopKCodec:
    """Keeps the top `k` of `num_classes` classes: 1 byte for each gap, 2 or 4 for each class, 4 for the tail.

    Raises InputError unless 1 <= k <= num_classes.
    """

    k: int
    num_classes: int

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("num_classes", self.num_classes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} is {value!r}, expected a positive integer")
        if self.num_classes > 1 << 32:
            raise InputError(f"num_classes is {self.num_classes}, expected at most 2^32")
        if self.k > self.num_classes:
            raise InputError(f"k={self.k} is more than num_classes={self.num_classes}; give at most {self.num_classes}")

    @property
    def classes_dtype(self) -> np.dtype[Any]:
        """The dtype of stored class ids."""
        return np.dtype("<u2" if self.num_classes <= 1 << 16 else "<u4")

    @property
    def widest_bytes(self) -> int:
        """Bytes of one label in the largest of its arrays."""
        return self.k * self.classes_dtype.itemsize

    @property
    def nbytes_per_label(self) -> int:
        """Bytes of one label before compression."""
        return self.k * (self.classes_dtype.itemsize + 1) + 4

    def encode(self, logits_BC: Tensor) -> TopKLabels:
        """Labels of B rows of logits (nats), on the device of the logits; -inf is a probability of zero.

        Raises InputError on another width or dtype, and naming the rows with NaN, +inf or nothing but -inf.
        """
        one_of("logits", logits_BC, Tensor, f"a tensor [B, {self.num_classes}]")
        if logits_BC.ndim != 2 or logits_BC.shape[1] != self.num_classes:
            raise InputError(f"logits have shape {tuple(logits_BC.shape)}, expected [B, {self.num_classes}]")
        if not logits_BC.is_floating_point():
            raise InputError(f"logits have dtype {logits_BC.dtype}, expected float32, float64, bfloat16 or float16")
        _check_values(logits_BC)
        return self.encode_unchecked(logits_BC)

    def encode_unchecked(self, logits_BC: Tensor) -> TopKLabels:
        """As `encode`, without a look at shape or values: nothing waits for a GPU."""
        return TopKLabels(*encode_topk(logits_BC, self.k), self.num_classes)

    def labels(self, arrays: Mapping[str, Tensor]) -> TopKLabels:
        """Labels of the arrays of a store, by name."""
        return TopKLabels(arrays["classes"], arrays["codes"], arrays["tail"], self.num_classes)

    def arrays(self, labels: TopKLabels) -> dict[str, NDArray[Any]]:
        """The arrays of a store [B, ...], by name, of labels on the CPU."""
        return {"classes": labels.classes.numpy(), "codes": labels.codes.numpy(), "tail": labels.tail.numpy()}

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON-ready values, with the constants of its format."""
        return {**TOPK_FORMAT, "k": self.k, "num_classes": self.num_classes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TopKCodec:
        """The codec that `to_dict` described; InputError when it is not one that this version reads."""
        one_of("codec", values, Mapping, "its values by name")
        constants = {key: value for key, value in values.items() if key not in ("k", "num_classes")}
        if constants != TOPK_FORMAT or not {"k", "num_classes"} <= values.keys():
            raise InputError(f"codec is {dict(values)}, expected k, num_classes and {TOPK_FORMAT}")
        return cls(k=values["k"], num_classes=values["num_classes"])
