"""Where whole images lie in a buffer, and what is cut from them: checked on the CPU, wherever the pixels are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BOX = 5  # top, left, height, width in pixels, and flip


def check_geometry(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> None:
    """Raise TypeError or ValueError unless dtypes, shapes and devices fit together; reads no values."""
    geometry = {"offsets": offsets_B, "heights": heights_B, "widths": widths_B, "boxes": boxes_BV5}
    dtypes = {"offsets": torch.int64, "heights": torch.int32, "widths": torch.int32, "boxes": torch.int32}
    if pixels_P.dtype != torch.uint8 or pixels_P.ndim != 1:
        raise TypeError(f"pixels are {pixels_P.dtype} {tuple(pixels_P.shape)}, expected one vector of torch.uint8")
    for name, tensor in geometry.items():
        if tensor.dtype != dtypes[name]:
            raise TypeError(f"{name} are {tensor.dtype}, expected {dtypes[name]}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} are on {tensor.device}: keep them on the CPU, where they are checked")
    shape = (len(offsets_B), boxes_BV5.shape[1], BOX) if boxes_BV5.ndim == 3 else None
    vectors = all(tuple(tensor.shape) == tuple(offsets_B.shape[:1]) for tensor in (offsets_B, heights_B, widths_B))
    if not vectors or shape is None or tuple(boxes_BV5.shape) != shape:
        shown = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in geometry.items())
        raise ValueError(f"got {shown}; expected [B] of each image, and boxes [B, V, {BOX}]")
    if size < 1:
        raise ValueError(f"size is {size}, expected 1 pixel or more")


def check_values(pixels_P: Tensor, offsets: Tensor, heights: Tensor, widths: Tensor, boxes: Tensor, size: int) -> None:
    """Raise ValueError, naming the first, unless all images lie in the buffer and all boxes can be read."""
    num_pixels = len(pixels_P)
    offsets_B, heights_B, widths_B, boxes_BV5 = (t.numpy() for t in (offsets, heights, widths, boxes))
    ends = offsets_B + 3 * heights_B.astype(np.int64) * widths_B
    outside = (offsets_B < 0) | (heights_B < 1) | (widths_B < 1) | (ends > num_pixels)
    if outside.any():
        b = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"image {b} of {heights_B[b]}x{widths_B[b]} pixels at byte {offsets_B[b]} is not in a buffer of "
            f"{num_pixels} bytes"
        )
    bad = np.argwhere(bad_boxes(heights_B, widths_B, boxes_BV5, size))
    if len(bad):
        b, v = bad[0]
        raise ValueError(
            f"box {boxes_BV5[b, v].tolist()} of image {b} leaves its {heights_B[b]}x{widths_B[b]} pixels, and needs a "
            f"resize to {size}"
        )


def bad_boxes(
    heights_B: NDArray[np.int32], widths_B: NDArray[np.int32], boxes_BV5: NDArray[np.int32], size: int
) -> NDArray[np.bool_]:
    """bool [B, V]: which boxes cannot be read. One may leave the image only where it is copied, as pad-crop does."""
    top, left, height, width = np.moveaxis(boxes_BV5.astype(np.int64), 2, 0)[:4]
    inside = (top >= 0) & (left >= 0) & (top + height <= heights_B[:, None]) & (left + width <= widths_B[:, None])
    copied = (height == size) & (width == size)
    return np.asarray(~(copied | (inside & (height >= 1) & (width >= 1))))


def pack(offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor) -> Tensor:
    """The geometry of each crop, int64 [B * V, 8], as the Triton kernel reads it: one upload."""
    B, V = boxes_BV5.shape[:2]
    packed = torch.empty((B, V, 3 + BOX), dtype=torch.int64)
    for place, values in enumerate((offsets_B, heights_B, widths_B)):
        packed[:, :, place] = values[:, None]
    packed[:, :, 3:] = boxes_BV5
    return packed.view(B * V, 3 + BOX)
