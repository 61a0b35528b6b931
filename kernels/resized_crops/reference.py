"""The definition of the crops of a batch: the reference of one crop, image by image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastlabel.kernels.resized_crop import resized_crop_reference


def resized_crops_reference(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> Tensor:
    """uint8 [B, V, size, size, 3]: each view's crop of each image of a flat buffer; see ``resized_crops``."""
    pixels = pixels_P.cpu().numpy()
    crops = np.empty((*boxes_BV5.shape[:2], size, size, 3), np.uint8)
    for b, (start, height, width) in enumerate(
        zip(offsets_B.tolist(), heights_B.tolist(), widths_B.tolist(), strict=True)
    ):
        image = pixels[start : start + height * width * 3].reshape(height, width, 3)
        for v, box in enumerate(boxes_BV5[b].tolist()):
            crops[b, v] = resized_crop_reference(image, box, size)
    return torch.from_numpy(crops).to(pixels_P.device)
