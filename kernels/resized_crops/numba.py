"""Every view of a batch of whole images on the CPU: the kernel of one crop, in a parallel loop."""

from __future__ import annotations

from numba import prange

from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.resized_crop import numba as crop_kernel
from fastlabel.kernels.resized_crop.numba import resized_crop


@cached_njit(parallel=True, nogil=True, error_model="numpy", depends_on=(crop_kernel,))
def resized_crops_numba(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, out_BVSS3):
    """Fill out uint8 [B, V, S, S, 3] by boxes that were checked."""
    views = boxes_BV5.shape[1]
    for crop in prange(len(offsets_B) * views):
        b, v = crop // views, crop % views
        start, height, width = offsets_B[b], int(heights_B[b]), int(widths_B[b])
        image = pixels_P[start : start + height * width * 3].reshape(height, width, 3)
        resized_crop(image, boxes_BV5[b, v], out_BVSS3[b, v])
