"""Checked entry point for one image; the decoder calls the Numba kernel inside its own loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def resized_crop(image_HWC: NDArray[np.uint8], box: Sequence[int], size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]: the box (top, left, height, width, flip) of uint8 [H, W, 3], resized and flipped.

    Raises:
        ValueError: the image is not uint8 [H, W, 3], the box is not five numbers with positive sides, or it needs a
            resize and leaves the image.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3]; got {image_HWC.dtype} {image_HWC.shape}")
    if size < 1 or len(box) != 5 or min(box[2:4]) < 1:
        raise ValueError(f"need a box (top, left, height, width, flip) and a size of 1 or more; got {box} and {size}")
    from fastlabel.kernels.resized_crop import numba as backend

    out = np.empty((size, size, 3), np.uint8)
    if not backend.resized_crop(np.ascontiguousarray(image_HWC), np.asarray(box, np.int32), out):
        raise ValueError(f"box {tuple(box)} leaves the image of {image_HWC.shape[:2]} pixels")
    return out
