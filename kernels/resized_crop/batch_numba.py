"""Every view of a batch of whole images on the CPU: the kernel of one crop, in a parallel loop."""

from __future__ import annotations

from typing import Any

from numba import njit, prange

from fastlabel.kernels.numba_cache import digest
from fastlabel.kernels.resized_crop import numba as crop_kernel
from fastlabel.kernels.resized_crop.numba import resized_crop


def _compile(sources: str) -> Any:
    @njit(parallel=True, nogil=True, cache=True, error_model="numpy")
    def resized_crops_numba(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, out_BVSS3):
        """Fill out uint8 [B, V, S, S, 3] by boxes that were checked."""
        _ = sources  # closed over, see kernels/numba_cache.py
        views = boxes_BV5.shape[1]
        for crop in prange(len(offsets_B) * views):
            b, v = crop // views, crop % views
            start, height, width = offsets_B[b], int(heights_B[b]), int(widths_B[b])
            image = pixels_P[start : start + height * width * 3].reshape(height, width, 3)
            resized_crop(image, boxes_BV5[b, v], out_BVSS3[b, v])

    return resized_crops_numba


resized_crops_numba = _compile(digest((crop_kernel, *crop_kernel.SOURCES)))
