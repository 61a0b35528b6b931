"""Resized crops on CUDA: whole images in, every view of them out, in the integers of the reference.

Two launches. The first one makes the weights of each crop's two axes, so that a division is done once per tap and
output pixel of an axis. The second one has a program for each tile of a crop: per tap of a column it sums the taps of
the rows (7 fractional bits), and adds that sum up. Columns lie next to each other in memory, and neighbours share most
of what they read, which the L1 cache then holds. What lies outside of the image is black, whether there is a resize or
not.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels.resized_crop.reference import FRACTION_BITS, WEIGHT_BITS

# A crop's geometry, int64: offset of its image in the buffer; height and width of the image; top, left, height, width
# of the box; flip.
GEOMETRY = 8
_HEIGHT, _WIDTH, _TOP, _LEFT, _LENGTHS, _FLIP = (tl.constexpr(place) for place in (1, 2, 3, 4, 5, 7))
_GEOMETRY = tl.constexpr(GEOMETRY)
_WEIGHT_BITS, _ONE = tl.constexpr(WEIGHT_BITS), tl.constexpr(1 << WEIGHT_BITS)
_FIRST_DROP, _SECOND_DROP = tl.constexpr(WEIGHT_BITS - FRACTION_BITS), tl.constexpr(WEIGHT_BITS + FRACTION_BITS)
_FIRST_HALF = tl.constexpr(1 << (WEIGHT_BITS - FRACTION_BITS - 1))
_SECOND_HALF = tl.constexpr(1 << (WEIGHT_BITS + FRACTION_BITS - 1))
_OUTPUTS, _ROWS, _COLUMNS = 128, 16, 32
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # there is nothing to fuse; Triton warns where it is not told


@triton.jit
def _num_taps(length, S):
    """Inputs that an output reads at most: integers in an open interval of 2 * max(length, S) / S."""
    taps = (2 * tl.maximum(length, S) + S - 1) // S
    return tl.where(length == S, 1, tl.minimum(taps, length)).to(tl.int32)


@triton.jit
def _raw_weight(low, high, tap, centre, support, S):
    j = low + tap
    return tl.where(j <= high, support - tl.abs((2 * j + 1) * S - centre), 0)


@triton.jit
def _rounded_weight(raw, total):
    return ((raw << (_WEIGHT_BITS + 1)) + total) // (2 * total)


@triton.jit
def _weights_kernel(geometry_ptr, first_ptr, weights_ptr, S, T, OUTPUTS: tl.constexpr):
    """first int32 [crops, 2, S] and weights int16 [crops, 2, T, S] of rows and columns, in pixels of the box."""
    axis = tl.program_id(0)  # of crop axis // 2
    length = tl.load(geometry_ptr + (axis // 2) * _GEOMETRY + _LENGTHS + axis % 2)
    i = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = i < S
    support = 2 * tl.maximum(length, S)
    centre = (2 * i.to(tl.int64) + 1) * length
    # Of non-negative numbers only: a division rounds towards zero here.
    low = (tl.maximum(centre - support, 0) // S + 1) >> 1
    high = tl.minimum(((centre + support + S - 1) // S - 2) >> 1, length - 1)
    taps = _num_taps(length, S)
    total = tl.zeros([OUTPUTS], tl.int64)
    largest = tl.zeros([OUTPUTS], tl.int64)
    place = tl.zeros([OUTPUTS], tl.int32)
    for tap in range(0, taps):
        raw = _raw_weight(low, high, tap, centre, support, S)
        total += raw
        place = tl.where(raw > largest, tap, place)
        largest = tl.maximum(largest, raw)
    total = tl.maximum(total, 1)  # beyond the last output, where nothing is stored
    rest = tl.full([OUTPUTS], _ONE, tl.int64)
    for tap in range(0, taps):
        rest -= _rounded_weight(_raw_weight(low, high, tap, centre, support, S), total)
    tl.store(first_ptr + axis.to(tl.int64) * S + i, low.to(tl.int32), mask=inside)
    for tap in range(0, taps):
        weight = _rounded_weight(_raw_weight(low, high, tap, centre, support, S), total)
        weight += tl.where(place == tap, rest, 0)
        tl.store(weights_ptr + (axis.to(tl.int64) * T + tap) * S + i, weight.to(tl.int16), mask=inside)


@triton.jit
def _crops_kernel(
    pixels_ptr,
    geometry_ptr,
    first_ptr,
    weights_ptr,
    table_ptr,
    out_ptr,
    S,
    T,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out [crops, S, S, 3]: uint8; or with a table [256, 3] of what each value becomes, of its type."""
    crop = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(S, COLUMNS)
    y = tl.program_id(1) // tiles * ROWS + tl.arange(0, ROWS)
    x = tl.program_id(1) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    box = geometry_ptr + crop * _GEOMETRY
    image = pixels_ptr + tl.load(box)
    H, W = tl.load(box + _HEIGHT), tl.load(box + _WIDTH)
    first_ptr += crop * 2 * S
    weights_ptr += crop * 2 * T * S
    rows = tl.load(box + _TOP) + tl.load(first_ptr + y, mask=y < S, other=0)
    columns = tl.load(box + _LEFT) + tl.load(first_ptr + S + x, mask=x < S, other=0)
    row_taps, column_taps = _num_taps(tl.load(box + _LENGTHS), S), _num_taps(tl.load(box + _LENGTHS + 1), S)
    red = tl.full([ROWS, COLUMNS], _SECOND_HALF, tl.int32)
    green = tl.full([ROWS, COLUMNS], _SECOND_HALF, tl.int32)
    blue = tl.full([ROWS, COLUMNS], _SECOND_HALF, tl.int32)
    for column_tap in range(0, column_taps):
        weight_x = tl.load(weights_ptr + (T + column_tap) * S + x, mask=x < S, other=0).to(tl.int32)
        column = columns + column_tap
        read_x = (weight_x != 0) & (column >= 0) & (column < W)
        first_row = image + 3 * column[None, :]
        partial_red = tl.full([ROWS, COLUMNS], _FIRST_HALF, tl.int32)
        partial_green = tl.full([ROWS, COLUMNS], _FIRST_HALF, tl.int32)
        partial_blue = tl.full([ROWS, COLUMNS], _FIRST_HALF, tl.int32)
        for row_tap in range(0, row_taps):
            weight_y = tl.load(weights_ptr + row_tap * S + y, mask=y < S, other=0).to(tl.int32)[:, None]
            row = rows + row_tap
            read = ((row >= 0) & (row < H))[:, None] & (weight_y != 0) & read_x[None, :]
            pixel = first_row + (row * (3 * W))[:, None]
            partial_red += weight_y * tl.load(pixel, mask=read, other=0).to(tl.int32)
            partial_green += weight_y * tl.load(pixel + 1, mask=read, other=0).to(tl.int32)
            partial_blue += weight_y * tl.load(pixel + 2, mask=read, other=0).to(tl.int32)
        red += weight_x[None, :] * (partial_red >> _FIRST_DROP)
        green += weight_x[None, :] * (partial_green >> _FIRST_DROP)
        blue += weight_x[None, :] * (partial_blue >> _FIRST_DROP)
    red, green, blue = red >> _SECOND_DROP, green >> _SECOND_DROP, blue >> _SECOND_DROP
    x = tl.where(tl.load(box + _FLIP) != 0, S - 1 - x, x)
    target = out_ptr + 3 * ((crop * S + y[:, None]) * S + x[None, :])
    # A flip takes what lies beyond the right edge to before the left one.
    inside = (y < S)[:, None] & ((x >= 0) & (x < S))[None, :]
    if table_ptr is None:
        tl.store(target, red.to(tl.uint8), mask=inside)
        tl.store(target + 1, green.to(tl.uint8), mask=inside)
        tl.store(target + 2, blue.to(tl.uint8), mask=inside)
    else:
        tl.store(target, tl.load(table_ptr + 3 * red), mask=inside)
        tl.store(target + 1, tl.load(table_ptr + 3 * green + 1), mask=inside)
        tl.store(target + 2, tl.load(table_ptr + 3 * blue + 2), mask=inside)


def most_taps(largest_side: int, size: int) -> int:
    """Inputs that an output of `size` reads at most, of boxes with sides of up to `largest_side`."""
    return -(-2 * max(largest_side, size) // size)


def resized_crops_triton(
    pixels_P: Tensor, geometry_N8: Tensor, largest_side: int, table_256x3: Tensor | None, out_NSS3: Tensor
) -> None:
    """Fill out [N, S, S, 3] from the geometry int64 [N, 8] of N crops. On CUDA, or in Triton's interpreter.

    Without a table the output is uint8, else what the table has for each value. `largest_side` of all boxes, in pixels.
    """
    N, size = out_NSS3.shape[:2]
    if not N:
        return
    taps = most_taps(largest_side, size)
    first = torch.empty((N, 2, size), dtype=torch.int32, device=pixels_P.device)
    weights = torch.empty((N, 2, taps, size), dtype=torch.int16, device=pixels_P.device)
    tables = (geometry_N8, first, weights)
    with torch.cuda.device_of(pixels_P):
        _weights_kernel[(2 * N, triton.cdiv(size, _OUTPUTS))](*tables, size, taps, OUTPUTS=_OUTPUTS, **_OPTIONS)
        tiles = triton.cdiv(size, _ROWS) * triton.cdiv(size, _COLUMNS)
        _crops_kernel[(N, tiles)](
            pixels_P, *tables, table_256x3, out_NSS3, size, taps, ROWS=_ROWS, COLUMNS=_COLUMNS, **_OPTIONS
        )
