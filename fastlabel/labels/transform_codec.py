"""TransformCodec: the top K classes of each label, and the transform of all its logits. docs/format.md specifies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.label_format import widen
from fastlabel.kernels.transform import encode_offset_reference, encode_transform_reference
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.codec import TOPK_FORMAT, TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform import TransformLabels
from fastlabel.system.arguments import boolean, one_of

NAME = "topk-log8-transform"
_OWN = ("components", "step", "basis", "information_kept")
_OFFSET = "logit_offset"  # only where it is true
MOST_BASIS_BYTES = 1 << 30
TEMPERATURES = (1, 4, 20)  # at which a calibration says what its labels keep


@dataclass(frozen=True)
class TransformCodec(TopKCodec):
    """Keeps the top `k` classes as `TopKCodec` does, and `components` bytes for the transform of all logits.

    Make one with `of`. What is read from a manifest has no basis until `with_basis` gives it.

    Attributes:
        components: R. step: nats, of a coefficient's code.
        basis_digest: SHA-256 of the basis, which says what the coefficients are of.
        information_kept: share of KL(teacher || uniform) that labels of the calibration kept at T = 1, 4 and 20, on
            samples that the basis had not seen; empty where it was not measured.
        logit_offset: whether a label keeps the mean of its logits too, in two bytes that are unused without it.

    Raises InputError unless 1 <= components <= num_classes and the step is positive and finite.
    """

    components: int = 0
    step: float = 0.0
    basis_digest: str = ""
    information_kept: tuple[float, ...] = ()
    logit_offset: bool = False
    basis: TransformBasis | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("components", self.components, int, "an integer")
        if not 1 <= self.components <= self.num_classes:
            raise InputError(f"components is {self.components}, expected 1 to the {self.num_classes} classes")
        if (self.components + 1) * self.num_classes * 2 > MOST_BASIS_BYTES:
            raise InputError(
                f"a basis of {self.components} components of {self.num_classes} classes takes more than "
                f"{MOST_BASIS_BYTES} bytes; give fewer components"
            )
        if not isinstance(self.step, float) or not 0 < self.step < math.inf:
            raise InputError(f"step is {self.step!r}, expected a positive finite number of nats")
        one_of("basis", self.basis_digest, str, "a digest")
        boolean("logit_offset", self.logit_offset)
        kept = self.information_kept
        if len(kept) not in (0, len(TEMPERATURES)) or not all(isinstance(share, float) for share in kept):
            raise InputError(f"information_kept is {kept!r}, expected one number for each of T = {TEMPERATURES}")

    @classmethod
    def of(
        cls,
        basis: TransformBasis,
        k: int,
        step: float,
        information_kept: tuple[float, ...] = (),
        logit_offset: bool = False,
    ) -> TransformCodec:
        """The codec of a basis."""
        own = basis.num_components, float(step), basis.digest, information_kept, logit_offset
        return cls(k, basis.num_classes, *own, basis)

    def with_basis(self, basis: TransformBasis) -> TransformCodec:
        """The codec with its basis. InputError where that is another one."""
        if (basis.num_components, basis.num_classes) != (self.components, self.num_classes):
            raise InputError(f"{basis} is not of {self.components} components of {self.num_classes} classes")
        if basis.digest != self.basis_digest:
            raise InputError(f"a basis of the digest {basis.digest[:12]} is not that of {self.basis_digest[:12]}")
        return replace(self, basis=basis)

    @property
    def own_basis(self) -> TransformBasis:
        if self.basis is None:
            raise InputError("the codec has no basis: open it with its store, or give it one with `with_basis`")
        return self.basis

    @property
    def widest_bytes(self) -> int:
        return max(super().widest_bytes, self.components)

    @property
    def nbytes_per_label(self) -> int:
        return super().nbytes_per_label + self.components

    def encode(self, logits_BC: Tensor) -> TopKLabels:
        """As of `TopKCodec`; InputError too where a mean logit is one that `logit_offset` cannot keep."""
        labels = super().encode(logits_BC)
        self._check_offset(labels)
        return labels

    def _check_offset(self, labels: TopKLabels) -> None:
        """InputError where the code of a mean logit is the least or the greatest: what is beyond them has it too."""
        if not self.logit_offset:
            return
        codes = widen(labels.tail[:, 1])
        at_end = (codes == 0) | (codes == 0xFFFF)
        if bool(at_end.any()):
            raise InputError(
                f"{int(at_end.sum())} of {len(labels)} labels have a mean logit beyond -512 to 512 nats, which a logit "
                "offset cannot keep: label without --logit-offset, or divide the teacher's logits"
            )

    def encode_unchecked(self, logits_BC: Tensor) -> TransformLabels:
        basis = self.own_basis.to(logits_BC.device)
        head = super().encode_unchecked(logits_BC)
        # The transform knows the mean of the tail: that in the head would take a byte for nothing.
        unused = encode_offset_reference(logits_BC).view(torch.int16) if self.logit_offset else -1  # UNDEFINED_MEAN_GAP
        head.tail.view(torch.int16)[:, 1] = unused
        coefficients = encode_transform_reference(logits_BC, basis.mean, basis.components, self.step)
        return self._with(head, coefficients)

    def labels(self, arrays: Mapping[str, Tensor]) -> TopKLabels:
        head, stored = super().labels(arrays), arrays["coefficients"].view(torch.int8)
        # 0, 1, 2, 3, 4 are 0, -1, 1, -2, 2: signs of small numbers would fill all bits, which bitshuffle takes apart.
        coefficients = (stored >> 1 & 0x7F) ^ -(stored & 1)
        return self._with(head, coefficients)

    def arrays(self, labels: TopKLabels) -> dict[str, NDArray[Any]]:
        assert isinstance(labels, TransformLabels)
        self._check_offset(labels)
        signed = labels.coefficients
        return super().arrays(labels) | {"coefficients": (signed << 1 ^ signed >> 7).view(torch.uint8).numpy()}

    def _with(self, head: TopKLabels, coefficients: Tensor) -> TransformLabels:
        basis = self.own_basis.to(head.device)
        tensors = head.classes, head.codes, head.tail, coefficients
        return TransformLabels(*tensors, basis, self.step, has_offset=self.logit_offset)

    def kept_at(self, temperature: float) -> float | None:
        """The share kept in calibration, interpolated over ln T; None where it was not measured."""
        if not self.information_kept:
            return None
        return float(np.interp(math.log(temperature), [math.log(T) for T in TEMPERATURES], self.information_kept))

    def to_dict(self) -> dict[str, Any]:
        own = {"components": self.components, "step": self.step, "basis": self.basis_digest}
        offset = {_OFFSET: True} if self.logit_offset else {}
        return {**super().to_dict(), "name": NAME, **own, "information_kept": list(self.information_kept), **offset}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformCodec:
        one_of("codec", values, Mapping, "its values by name")
        missing = [key for key in _OWN if key not in values]
        if missing:
            raise InputError(f"codec is {dict(values)}, expected {missing[0]}")
        head = {key: value for key, value in values.items() if key not in (*_OWN, _OFFSET)}
        plain = TopKCodec.from_dict(head | {"name": TOPK_FORMAT["name"]})
        own = values["components"], values["step"], values["basis"], tuple(values["information_kept"])
        offset = values.get(_OFFSET, False)
        return cls(plain.k, plain.num_classes, *own, offset)


def codec_from_dict(values: Mapping[str, Any]) -> TopKCodec:
    """The codec that `to_dict` described, of whichever name; InputError when this version reads no such one."""
    one_of("codec", values, Mapping, "its values by name")
    return TransformCodec.from_dict(values) if values.get("name") == NAME else TopKCodec.from_dict(values)
