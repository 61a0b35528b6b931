"""Crop boxes as other projects write them: fractions of the image in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import DatasetError

# A fraction in float32 gives back whole pixels to 1e-3 of one. What is further off is of an image of another size.
MOST_OFF = 0.02  # pixels


def boxes_of_fractions(
    fractions_B4: NDArray[Any], flips_B: NDArray[Any], heights: NDArray[Any], widths: NDArray[Any], where: str
) -> NDArray[np.int32]:
    """int32 [B, 5] of FKD's coordinates: top / H, left / W, height / H, width / W, and flips.

    Raises DatasetError unless they are whole pixels of images of these sizes; `where` names the file.
    """
    pixels = fractions_B4.astype(np.float64) * np.stack([heights, widths, heights, widths], axis=1)
    if not np.isfinite(pixels).all():
        raise DatasetError(f"{where}: its coordinates are not all numbers")
    whole = np.rint(pixels)
    off = np.abs(pixels - whole).max(axis=1, initial=0)
    if (off > MOST_OFF).any():
        row = int(np.argmax(off))
        raise DatasetError(
            f"{where}: row {row} is a crop of {pixels[row].round(3).tolist()} pixels (top, left, height, width) of an "
            f"image of {heights[row]}x{widths[row]}: no whole pixels, so it was cut from an image of another size or "
            "another sample; give the dataset in the order and at the size in which it was labelled"
        )
    boxes = np.empty((len(pixels), 5), np.int32)
    boxes[:, :4], boxes[:, 4] = whole, flips_B.astype(bool)
    inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:4] > 0).all(axis=1)
    inside &= (boxes[:, 0] + boxes[:, 2] <= heights) & (boxes[:, 1] + boxes[:, 3] <= widths)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DatasetError(
            f"{where}: the crop of row {row} is {boxes[row, :4].tolist()} (top, left, height, width) and leaves its "
            f"image of {heights[row]}x{widths[row]} pixels"
        )
    return boxes


def fractions_of_boxes(
    boxes_B5: NDArray[np.int32], heights: NDArray[Any], widths: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """float32 [B, 4] and flips [B]: the inverse of `boxes_of_fractions`."""
    sizes = np.stack([heights, widths, heights, widths], axis=1)
    return (boxes_B5[:, :4] / sizes).astype(np.float32), boxes_B5[:, 4].astype(bool)
