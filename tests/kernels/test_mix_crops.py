"""Mixed crops: Numba and Triton equal the reference to the byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.kernels.mix_crops import mix_crops_, mix_crops_reference
from fastlabel.kernels.mix_crops.triton import mix_crops_triton


def case(seed: int, count: int = 7, views: int = 3, size: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops, and a table of pairs of which an odd one stays alone: swaps, blends and empty boxes."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (count, views, size, size, 3), dtype=np.uint8)
    table = np.zeros((count, views, 6), np.int32)
    for view in range(views):
        order = rng.permutation(count)
        table[:, view, 0] = np.arange(count)
        for one, other in zip(order[0 : count // 2 * 2 : 2], order[1::2], strict=True):
            weight = int(rng.choice([0, 1, 100, 32768, 65535, 65536]))
            box = [*np.sort(rng.integers(0, size + 1, (2, 2)), axis=0).ravel()]
            for row, partner in ((one, other), (other, one)):
                table[row, view] = [partner, weight, *box]
    return torch.from_numpy(crops), torch.from_numpy(table)


def by_hand(crops: torch.Tensor, table: torch.Tensor) -> np.ndarray:
    """In Python integers, pixel by pixel."""
    plain, mixed = crops.numpy(), crops.numpy().copy()
    for row, view in np.ndindex(*table.shape[:2]):
        partner, weight, top, left, bottom, right = table[row, view].tolist()
        for y in range(top, bottom):
            for x in range(left, right):
                for c in range(3):
                    own, other = int(plain[row, view, y, x, c]), int(plain[partner, view, y, x, c])
                    mixed[row, view, y, x, c] = (weight * own + (65536 - weight) * other + 32768) // 65536
    return mixed


def test_the_reference_is_the_formula() -> None:
    crops, table = case(0)
    np.testing.assert_array_equal(mix_crops_reference(crops, table).numpy(), by_hand(crops, table))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 3), st.integers(1, 40))
def test_numba_equals_the_reference(seed: int, count: int, views: int, size: int) -> None:
    crops, table = case(seed, count, views, size)
    wanted = mix_crops_reference(crops, table) if count else crops
    assert torch.equal(mix_crops_(crops.clone(), table), wanted)


@pytest.mark.parametrize("seed", [1, 2])
def test_triton_equals_the_reference(seed: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    crops, table = case(seed, 5, 2, 41)
    mixed = crops.clone().to(device)
    mix_crops_triton(mixed, table.to(device))
    assert torch.equal(mixed.cpu(), mix_crops_reference(crops, table))


@pytest.mark.gpu
def test_the_op_on_cuda() -> None:
    crops, table = case(3, 32, 4, 224)
    assert torch.equal(mix_crops_(crops.cuda(), table).cpu(), mix_crops_reference(crops, table))


def test_what_does_not_fit_is_refused() -> None:
    crops, table = case(0)
    bad = table.clone()
    bad[0, 0, 5] = 14
    one_sided = table.clone()
    one_sided[:, 0, 0] = 1
    for arguments, message in (
        ((crops.int(), table), "expected uint8"),
        ((crops.transpose(2, 3), table), "contiguous"),
        ((crops, table[:, :2]), "expected int32"),
        ((crops, bad), "has values"),
        ((crops, one_sided), "from both sides"),
    ):
        with pytest.raises(ValueError, match=message):
            mix_crops_(*arguments)
