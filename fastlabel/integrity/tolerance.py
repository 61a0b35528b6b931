"""How far two labels of one crop may lie apart when only the rounding of the teacher's arithmetic differs.

Another device, number of threads or version of PyTorch adds in another order, and moves logits in their last bits. That
can move a code or a tail by a step, and exchange classes that are nearly equal; it cannot do more. The limits are
generous multiples of what docs/reliability.md reports as measured; another teacher or other pixels exceed them by far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.store.manifest import TeacherInfo

ZERO, UNKNOWN = 255, 65535  # the code of a probability of zero; a mean gap of the tail that is not known
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rounding:
    """Limits for labels that differ by rounding.

    Attributes:
        codes: steps of 1/8 nat that a code, and the mean gap of the tail, may move.
        tail: steps of 1/256 nat that the tail's log-odds may move.
        share: of all codes of the labels compared, how many may have moved at all.
    """

    codes: int
    tail: int
    share: float

    @classmethod
    def of(cls, info: TeacherInfo) -> Rounding:
        """The limits for a teacher: they depend on the precision that it runs at."""
        if info.precision != "fp32":
            return cls(codes=3, tail=96, share=0.75)
        if info.tf32:
            return cls(codes=2, tail=32, share=0.25)
        return cls(codes=1, tail=2, share=0.01)

    def allows(self, one: Arrays, other: Arrays) -> bool:
        """Whether two labels (classes [K], codes [K], tail [2]) of one crop differ by no more than rounding."""
        if "coefficients" in one and not self._coefficients_agree(one["coefficients"], other["coefficients"]):
            return False
        return self._codes_agree(one, other) and self._tails_agree(one["tail"], other["tail"])

    def _coefficients_agree(self, one: NDArray[Any], other: NDArray[Any]) -> bool:
        return int(np.abs(_signed(one) - _signed(other)).max()) <= self.codes

    def _codes_agree(self, one: Arrays, other: Arrays) -> bool:
        first, second = _by_class(one), _by_class(other)
        last = max(first.values()), max(second.values())
        for name in first.keys() | second.keys():
            a, b = first.get(name), second.get(name)
            if a is None or b is None:
                # Kept by one only: there it must be nearly as improbable as the last that the other keeps.
                kept, lowest = (b, last[0]) if a is None else (a, last[1])
                if kept is None or kept < lowest - self.codes:
                    return False
            elif (a == ZERO) != (b == ZERO) or abs(a - b) > self.codes:
                return False
        return True

    def _tails_agree(self, one: NDArray[Any], other: NDArray[Any]) -> bool:
        (mass, gap), (other_mass, other_gap) = map(int, one), map(int, other)
        if (mass == 0) != (other_mass == 0) or (gap == UNKNOWN) != (other_gap == UNKNOWN):
            return False
        return abs(mass - other_mass) <= self.tail and abs(gap - other_gap) <= self.codes


def _signed(coefficients: NDArray[Any]) -> NDArray[np.int16]:
    """Of 0, 1, 2, 3, 4 as they are stored: 0, -1, 1, -2, 2."""
    wide = coefficients.astype(np.int16)
    return (wide >> 1) ^ -(wide & 1)


def moved_codes(one: Arrays, other: Arrays) -> int:
    """How many places (class and code) of labels [B, K] differ."""
    return int(((one["codes"] != other["codes"]) | (one["classes"] != other["classes"])).sum())


def unequal_rows(one: Arrays, other: Arrays) -> NDArray[np.int64]:
    """Rows of labels [B, ...] that are not the same bytes."""
    unequal = [(one[name] != other[name]).any(axis=1) for name in one]
    return np.flatnonzero(np.logical_or.reduce(unequal))


def _by_class(label: Arrays) -> dict[int, int]:
    return dict(zip(label["classes"].tolist(), label["codes"].tolist(), strict=True))
