"""Pixel operations: Numba equals the reference, the reference equals Pillow where Pillow has the operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastlabel.kernels.pixel_operations import KINDS, TAPS, pixel_operations_, pixel_operations_reference
from fastlabel.kernels.pixel_operations.reference import ONE

KERNELS = torch.tensor([[20000, 12000, 6000, 3000, 1200, 468, 100], [65536, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)
FILL = torch.tensor([1, 2, 3], dtype=torch.uint8)
NOTHING = [0, 0, ONE, ONE, ONE, 0, 0, 0, 0]


def crops(count: int = 5, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def run(images: torch.Tensor, *rows: list[int]) -> torch.Tensor:
    table = torch.tensor(rows, dtype=torch.int32)
    return pixel_operations_reference(images, table, KERNELS, FILL)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from([0, 2, 3]), st.integers(1, 4))
def test_numba_equals_the_reference(seed: int, count: int, grid: int, quarter: int) -> None:
    rng, size = np.random.default_rng(seed), 6 * quarter
    table = np.zeros((count, 9 + grid * grid), np.int32)
    table[:, 0], table[:, 1] = rng.integers(0, len(KINDS), count), rng.integers(0, 2, count)
    table[:, 2:5] = np.where(rng.random((count, 3)) < 0.4, ONE, rng.integers(0, 3 * ONE, (count, 3)))
    corners = np.sort(rng.integers(0, size + 1, (count, 2, 2)), axis=1)
    table[:, 5:9] = corners.reshape(count, 4)
    for row in table if grid else ():
        row[9:] = rng.permutation(grid * grid)
    images, rest = crops(count, size, seed), (torch.from_numpy(table), KERNELS, FILL)
    wanted = pixel_operations_reference(images, *rest)
    assert torch.equal(pixel_operations_(images.clone(), *rest), wanted)


def test_gray_and_solarise_are_those_of_pillow() -> None:
    images = crops(2)
    found = run(images, [1, *NOTHING[1:]], [2, *NOTHING[1:]]).numpy()
    pictures = [Image.fromarray(image.numpy()) for image in images]
    np.testing.assert_array_equal(found[0], np.asarray(pictures[0].convert("L").convert("RGB")))
    np.testing.assert_array_equal(found[1], np.asarray(ImageOps.solarize(pictures[1])))


def test_jitter_in_python_integers() -> None:
    images, factor = crops(3), 90_000
    rows = [[0, 0, factor, ONE, ONE], [0, 0, ONE, factor, ONE], [0, 0, ONE, ONE, factor]]
    found = run(images, *([*row, 0, 0, 0, 0] for row in rows)).tolist()
    grays = [
        [[(19595 * r + 38470 * g + 7471 * b + 32768) // ONE for r, g, b in row] for row in image]
        for image in images.tolist()
    ]
    mean = (2 * sum(map(sum, grays[1])) + 144) // 288
    for y in range(12):
        for x in range(12):
            for c in range(3):
                v = [int(images[n, y, x, c]) for n in range(3)]
                others = (0, mean, grays[2][y][x])
                for n in range(3):
                    rest = 0 if n == 0 else (ONE - factor) * others[n]
                    assert found[n][y][x][c] == min(255, max(0, (factor * v[n] + rest + 32768) // ONE))


def test_blur_in_python_integers() -> None:
    image = crops(1)
    found, weights = run(image, [3, *NOTHING[1:]])[0].tolist(), KERNELS[0].tolist()
    source = image[0].tolist()

    def tap(values: list[int], at: int) -> int:
        taken = (weights[abs(o)] * values[min(max(at + o, 0), 11)] for o in range(1 - TAPS, TAPS))
        return min(255, (sum(taken) + 32768) // ONE)

    for c in range(3):
        rows = [[tap([source[y][x][c] for x in range(12)], at) for at in range(12)] for y in range(12)]
        for y in range(12):
            for x in range(12):
                assert found[y][x][c] == tap([rows[line][x] for line in range(12)], y)


def test_patches_and_erasing() -> None:
    image = crops(1)
    found = run(image, [*NOTHING[:5], 2, 3, 5, 12, 3, 0, 1, 2])[0]
    plain = image[0]
    moved = torch.cat([torch.cat([plain[6:, 6:], plain[:6, :6]], 1), torch.cat([plain[:6, 6:], plain[6:, :6]], 1)], 0)
    moved[2:5, 3:12] = FILL
    assert torch.equal(found, moved)


def test_what_does_not_fit_is_refused() -> None:
    images, table = crops(), torch.tensor([NOTHING] * 5, dtype=torch.int32)
    for arguments, message in (
        ((images.int(), table, KERNELS, FILL), "expected uint8"),
        ((images.transpose(1, 2), table, KERNELS, FILL), "contiguous"),
        ((images, table[:, :8], KERNELS, FILL), "expected int32"),
        ((images, table[:4], KERNELS, FILL), "expected int32"),
        ((images, table, KERNELS[:, :3], FILL), "the weights are"),
    ):
        with pytest.raises(ValueError, match=message):
            pixel_operations_(*arguments)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 4, "a kind is from 3 to 4, expected 0 to 3"),
        (1, 2, "the number of a blur is from 0 to 2, expected 0 to 1"),
        (2, -1, "a factor is from -1"),
        (3, 1 << 25, "expected 0 to 16777216"),
        (7, 13, "a side of a box is from 0 to 13, expected 0 to 12"),
        (6, 1, "a box ends before it begins"),
        (9, 4, "the number of a patch is from 0 to 4, expected 0 to 3"),
        (9, -1, "the number of a patch is from -1"),
    ],
)
def test_values_that_lead_out_of_the_crop(column: int, value: int, message: str) -> None:
    table = torch.tensor([[3, *NOTHING[1:], 0, 1, 2, 3]] * 2, dtype=torch.int32)
    table[1, column] = value
    images = crops(2)
    before = images.clone()
    with pytest.raises(ValueError, match=message):
        pixel_operations_(images, table, KERNELS, FILL)
    assert torch.equal(images, before)
