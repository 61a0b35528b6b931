"""The definition of the pixel operations, on any device: every backend equals this to the byte.

All values are integers. `>>` rounds down, factors and weights are in units of 2**-16, results are cut off at 0 and 255.
The gray of a pixel is (19595 R + 38470 G + 7471 B + 2**15) >> 16, as Pillow has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

ONE, HALF, BITS = 1 << 16, 1 << 15, 16
RED, GREEN, BLUE = 19595, 38470, 7471
KINDS = NONE, GRAY, SOLARISE, BLUR = range(4)
THRESHOLD = 128  # of solarise: what is not below it is inverted
TAPS = 7  # of one half of a blur: the weight of the middle, then those at a distance of 1 to 6 pixels
# Of the table, then one column for each patch: which patch comes to that place.
COLUMNS = KIND, LEVEL, BRIGHTNESS, CONTRAST, SATURATION, TOP, LEFT, BOTTOM, RIGHT = range(9)


def pixel_operations_reference(crops_NSS3: Tensor, table_NT: Tensor, kernels_LT: Tensor, fill_3: Tensor) -> Tensor:
    """Crops uint8 [N, S, S, 3] after the operations of their rows of the table, in this order.

    1. KIND: gray; or solarise, 255 - v of every v of 128 and more; or a blur of the weights number LEVEL, along rows,
       then along columns, each rounded, the image continued by its border.
    2. BRIGHTNESS f: (f v + 2**15) >> 16. CONTRAST f: (f v + (2**16 - f) m + 2**15) >> 16 with m the mean gray of the
       crop, rounded. SATURATION f: the same with m the gray of each pixel. f = 2**16 changes nothing.
    3. Patches: the crop is cut into g x g, and place p of them, row by row, gets that number of the table.
    4. The box TOP, LEFT, BOTTOM, RIGHT is filled.

    Args:
        table_NT: int32 [N, 9 + g * g]; g may be 0.
        kernels_LT: int32 [L, 7], weights of blurs. fill_3: uint8.
    """
    device = crops_NSS3.device
    found, table, fill = crops_NSS3.clone(), table_NT.to(device), fill_3.to(device)
    kinds = table[:, KIND]
    gray, solarise, blur = ((kinds == kind).nonzero()[:, 0] for kind in (GRAY, SOLARISE, BLUR))
    found[gray] = grays(found[gray])[..., None].expand(-1, -1, -1, 3)
    found[solarise] = torch.where(found[solarise] >= THRESHOLD, 255 - found[solarise], found[solarise])
    weights = kernels_LT.to(device)[table[blur, LEVEL].long()]
    found[blur] = _blur(_blur(found[blur], weights, 2), weights, 1)
    for column in (BRIGHTNESS, CONTRAST, SATURATION):
        chosen = (table[:, column] != ONE).nonzero()[:, 0]
        found[chosen] = _jitter(found[chosen], table[chosen, column], column)
    found = _patches(found, table[:, len(COLUMNS) :])
    rows = torch.arange(found.shape[1], device=device)
    top, left, bottom, right = (table[:, column, None] for column in (TOP, LEFT, BOTTOM, RIGHT))
    within = ((rows >= top) & (rows < bottom))[:, :, None] & ((rows >= left) & (rows < right))[:, None, :]
    return torch.where(within[..., None], fill, found)


def grays(crops_NSS3: Tensor) -> Tensor:
    """The gray of each pixel, uint8 [N, S, S]."""
    red, green, blue = crops_NSS3.int().unbind(-1)
    return ((RED * red + GREEN * green + BLUE * blue + HALF) >> BITS).to(torch.uint8)


def _jitter(crops: Tensor, factors_N: Tensor, column: int) -> Tensor:
    factor, values = factors_N.long().view(-1, 1, 1, 1), crops.long()
    if column == BRIGHTNESS:
        return ((factor * values + HALF) >> BITS).clamp(0, 255).to(torch.uint8)
    other = grays(crops).long()[..., None]
    if column == CONTRAST:
        count = other[0].numel() if len(other) else 1
        other = (2 * other.sum((1, 2, 3), keepdim=True) + count) // (2 * count)
    return ((factor * values + (ONE - factor) * other + HALF) >> BITS).clamp(0, 255).to(torch.uint8)


def _blur(crops: Tensor, weights_NT: Tensor, axis: int) -> Tensor:
    size = crops.shape[axis]
    places, total = torch.arange(size, device=crops.device), torch.zeros_like(crops, dtype=torch.int32)
    for offset in range(1 - TAPS, TAPS):
        taken = crops.index_select(axis, (places + offset).clamp(0, size - 1)).int()
        total += weights_NT[:, abs(offset)].view(-1, 1, 1, 1) * taken
    return ((total + HALF) >> BITS).clamp(0, 255).to(torch.uint8)


def _patches(crops: Tensor, order_NP: Tensor) -> Tensor:
    grid = round(order_NP.shape[1] ** 0.5)
    if grid < 2 or not len(crops):
        return crops
    count, size = crops.shape[:2]
    side = size // grid
    patches = crops.view(count, grid, side, grid, side, 3).transpose(2, 3).reshape(count, grid * grid, side, side, 3)
    moved = patches[torch.arange(count, device=crops.device)[:, None], order_NP.long()]
    return moved.view(count, grid, grid, side, side, 3).transpose(2, 3).reshape(crops.shape)
