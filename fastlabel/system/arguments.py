"""Checks of what a caller gave: one clear InputError instead of a raw error further inside, or of a wrong result."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastlabel.errors import InputError


def integer_between(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int. InputError names it unless it is an integer, no boolean, and low <= value < high."""
    try:
        number = int(operator.index(value))
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise InputError(f"{name} {value!r} must be an integer")
    if not low <= number < high:
        raise InputError(f"{name} {number} must be {low} to {high - 1}")
    return number


def integer(name: str, value: Any) -> int:
    """`value` as an int, for a caller that knows its range. InputError names what is none."""
    return integer_between(name, value, -(1 << 80), 1 << 80)


def at_least(name: str, value: Any, low: int) -> int:
    """`value` as an int. InputError names it unless it is an integer, no boolean, of `low` or more."""
    number = integer_between(name, value, -(1 << 63), 1 << 63)
    if number < low:
        raise InputError(f"{name} {number} must be at least {low}")
    return number


def boolean(name: str, value: Any) -> bool:
    """`value` as a bool. InputError names what is none: "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}, expected True or False")
    return bool(value)


def one_of(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """InputError unless `value` is of a type; `expected` says in words of which."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {_shown(value)}, expected {expected}")


def pair(name: str, values: Any) -> tuple[Any, Any]:
    """Two numbers. InputError names anything else."""
    try:
        low, high = values
        _ = low <= high, float(low), float(high)
        if any(isinstance(value, (str, bytes, bool)) for value in (low, high)):
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {values!r}, expected two numbers") from None
    return low, high


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:80]}..."
    return f"of type {type(value).__name__}"


def integer_vector(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """int64 [n] of a list, array or CPU tensor of integers; InputError of anything else, or of numbers above int64."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be a list of integers: {error}") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a list of integers; got {array.dtype} {array.shape}")
    if array.dtype.kind == "u" and array.size and array.max() >= 1 << 63:
        raise InputError(f"{name} reach {array.max()}, expected less than 2**63")
    return array.astype(np.int64)
