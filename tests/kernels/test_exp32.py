"""exp32 keeps its stated accuracy and treats every float32 as exp does."""

from __future__ import annotations

import numba
import numpy as np

from fastlabel.kernels.common.exp32 import bits_of_float, exp32, float_of_bits


@numba.njit
def _exp_of(values):
    out = np.full_like(values, np.nan)
    for j in range(values.size):
        out[j] = exp32(values[j])
    return out


@numba.njit
def _there_and_back(values):
    out = np.full_like(values, np.nan)
    for j in range(values.size):
        out[j] = float_of_bits(bits_of_float(values[j]))
    return out


def test_relative_error():
    for low, high, bound in ((-10, 1, 1.5e-7), (-87.2, 88, 5e-7)):
        values = np.linspace(low, high, 1_000_001).astype(np.float32)
        error = _exp_of(values) / np.exp(values.astype(np.float64)) - 1
        assert np.abs(error).max() < bound


def test_ends_and_special_values():
    values = np.array([0, -0.0, -87.5, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(_exp_of(values), np.array([1, 1, 0, 0, 0, np.nan], np.float32))


def test_bits_are_only_looked_at():
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, 100_000).astype(np.int32)
    values = bits.view(np.float32)
    np.testing.assert_array_equal(_there_and_back(values).view(np.int32)[~np.isnan(values)], bits[~np.isnan(values)])
