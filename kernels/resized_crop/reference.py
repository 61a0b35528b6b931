"""The definition of a resized crop's bytes, in integers: every backend gives the same ones.

Triangle filter of Pillow and of torchvision's antialiased resize: an output pixel i of ``size`` out of
``length`` is centred at (i + 1/2) * length / size and weighs input pixel j by
max(0, 1 - |j + 1/2 - centre| / support), with support max(1, length / size). Times 2 * size both are integers.
Rows first, kept with 7 fractional bits, then columns. Weights have 14 bits and sum to exactly 2**14.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WEIGHT_BITS, FRACTION_BITS = 14, 7


def axis_weights_reference(length: int, size: int) -> NDArray[np.int64]:
    """Weights int64 [size, length] of one axis; each row sums to 2**14."""
    i, j = np.arange(size, dtype=np.int64)[:, None], np.arange(length, dtype=np.int64)[None, :]
    support = 2 * max(length, size)
    raw = np.maximum(0, support - np.abs((2 * j + 1) * size - (2 * i + 1) * length))
    total = raw.sum(1, keepdims=True)
    weights = ((raw << (WEIGHT_BITS + 1)) + total) // (2 * total)
    # What rounding left over goes to the largest weight, so that a flat image stays flat.
    weights[np.arange(size), raw.argmax(1)] += (1 << WEIGHT_BITS) - weights.sum(1)
    return weights


def resized_crop_reference(image_HWC: NDArray[np.uint8], box: Sequence[int], size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3] from uint8 [H, W, 3] and a box (top, left, height, width, flip) in pixels.

    A box that leaves the image reads black there.
    """
    top, left, height, width, flip = (int(v) for v in box)
    padded = np.zeros((height, width, 3), np.int64)
    rows = slice(max(0, -top), min(height, image_HWC.shape[0] - top))
    columns = slice(max(0, -left), min(width, image_HWC.shape[1] - left))
    if rows.start < rows.stop and columns.start < columns.stop:
        padded[rows, columns] = image_HWC[
            top + rows.start : top + rows.stop, left + columns.start : left + columns.stop
        ]
    row_weights, column_weights = axis_weights_reference(height, size), axis_weights_reference(width, size)
    drop = WEIGHT_BITS - FRACTION_BITS
    partial = (np.einsum("yj,jxc->yxc", row_weights, padded) + (1 << (drop - 1))) >> drop
    drop = WEIGHT_BITS + FRACTION_BITS
    out = (np.einsum("xj,yjc->yxc", column_weights, partial) + (1 << (drop - 1))) >> drop
    return (out[:, ::-1] if flip else out).astype(np.uint8)
