"""Rows of bfloat16 and float16, as uint16, to float32 and back; to nearest, ties to even."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlabel.kernels.common import exp32
from fastlabel.kernels.common.exp32 import bits_of_float, float_of_bits
from fastlabel.kernels.numba_cache import cached_njit

_OPTIONS: dict[str, Any] = {"nogil": True, "depends_on": (exp32,), "error_model": "numpy"}

# float32 bits
_ALL_BUT_SIGN, _INFINITY, _QUIET_NAN = np.int32(0x7FFFFFFF), np.int32(0x7F800000), np.int32(0x7FC00000)
_SIGN_OF_HALF, _REST_OF_HALF = np.int32(0x8000), np.int32(0x7FFF)
_HALF_INFINITY, _HALF_NAN = np.int32(0x7C00), np.int32(0x7E00)
_SHIFT = np.int32(13)  # between the mantissas of float16 and float32
_REBIAS = np.int32((127 - 15) << 23)
_SMALLEST_NORMAL = np.int32((127 - 14) << 23)  # of float16
_OVERFLOW = np.int32(0x477FF000)  # 65520, which rounds to infinity
_HALF, _HALF_BITS = np.float32(0.5), np.int32(126 << 23)
_UP, _TOP = np.float32(2.0**112), np.int32((255 - 31) << 23)


@cached_njit(**_OPTIONS)
def widen_bfloat16(row, out):
    """Fill out, float32, from bits of bfloat16."""
    bits = out.view(np.int32)
    for j in range(row.size):
        bits[j] = np.int32(row[j]) << np.int32(16)


@cached_njit(**_OPTIONS)
def narrow_to_bfloat16(values, row):
    """Fill row, bits of bfloat16, from float32."""
    bits = values.view(np.int32)
    for j in range(row.size):
        b = bits[j]
        odd = (b >> np.int32(16)) & np.int32(1)
        rounded = (b + np.int32(0x7FFF) + odd) >> np.int32(16)
        nan = (b & _ALL_BUT_SIGN) > _INFINITY
        row[j] = np.uint16(_QUIET_NAN >> np.int32(16)) if nan else np.uint16(rounded)


@cached_njit(**_OPTIONS)
def widen_float16(row, out):
    """Fill out, float32, from bits of float16."""
    for j in range(row.size):
        half = np.int32(row[j])
        shifted = (half & _REST_OF_HALF) << _SHIFT
        # Its exponent is 112 too low now: the product mends that, for subnormal numbers too.
        magnitude = bits_of_float(float_of_bits(shifted) * _UP)
        special = (half & _HALF_INFINITY) == _HALF_INFINITY
        magnitude = shifted + _TOP if special else magnitude
        out[j] = float_of_bits(magnitude | ((half & _SIGN_OF_HALF) << np.int32(16)))


@cached_njit(**_OPTIONS)
def narrow_to_float16(values, row):
    """Fill row, bits of float16, from float32."""
    for j in range(row.size):
        bits = bits_of_float(values[j])
        sign, magnitude = (bits >> np.int32(16)) & _SIGN_OF_HALF, bits & _ALL_BUT_SIGN
        odd = (magnitude >> _SHIFT) & np.int32(1)
        normal = (magnitude - _REBIAS + np.int32(0xFFF) + odd) >> _SHIFT
        # 0.5 has the spacing of subnormal float16 numbers, 2^-24: the sum rounds to them.
        subnormal = bits_of_float(float_of_bits(magnitude) + _HALF) - _HALF_BITS
        half = subnormal if magnitude < _SMALLEST_NORMAL else normal
        half = _HALF_INFINITY if magnitude >= _OVERFLOW else half
        half = _HALF_NAN if magnitude > _INFINITY else half
        row[j] = np.uint16(sign | half)
