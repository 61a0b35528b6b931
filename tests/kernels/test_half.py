"""float16 and bfloat16 rows: the same bits as torch's own conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlabel.kernels.common.half import narrow_to_bfloat16, narrow_to_float16, widen_bfloat16, widen_float16

DTYPES = [
    (torch.bfloat16, widen_bfloat16, narrow_to_bfloat16),
    (torch.float16, widen_float16, narrow_to_float16),
]


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal bits, but for those of NaN."""
    assert torch.equal(found.isnan(), expected.isnan())
    bits = [tensor.nan_to_num(nan=7.0, posinf=torch.inf, neginf=-torch.inf) for tensor in (found, expected)]
    assert torch.equal(bits[0], bits[1])
    assert torch.equal(bits[0].signbit(), bits[1].signbit())


@pytest.mark.parametrize(("dtype", "widen", "narrow"), DTYPES)
def test_all_values_there_and_back(dtype, widen, narrow):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    wide = np.full(1 << 16, np.nan, np.float32)
    widen(every.numpy(), wide)
    assert_same(torch.from_numpy(wide), every.view(dtype).float())
    back = np.zeros(1 << 16, np.uint16)
    narrow(wide, back)
    assert_same(torch.from_numpy(back).view(dtype), every.view(dtype))


@pytest.mark.parametrize(("dtype", "widen", "narrow"), DTYPES)
def test_rounding_is_torchs(dtype, widen, narrow):
    generator = torch.Generator().manual_seed(0)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype).double()
    steps = every[every.isfinite()].sort().values.float()
    halfway = (steps[1:] + steps[:-1]) / 2
    bits = torch.randint(-(2**31), 2**31, (1 << 20,), generator=generator).to(torch.int32).view(torch.float32)
    around = torch.randn(1 << 20, generator=generator) * 10.0 ** torch.randint(-9, 6, (1 << 20,), generator=generator)
    limits = torch.tensor([65504.0, 65519.99, 65520.0, 1e38, torch.inf, torch.nan, 2**-25, 2**-24, -(2**-26)])
    for values in (halfway, halfway.nextafter(torch.tensor(0.0)), bits, around, limits):
        out = np.zeros(len(values), np.uint16)
        narrow(values.numpy(), out)
        assert_same(torch.from_numpy(out).view(dtype), values.to(dtype))
