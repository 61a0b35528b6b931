"""The FFCV decoder: each image is decoded once and cropped V times, by boxes that are handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import get_thread_id, njit, prange

from fastlabel.dataset import ffcv_api as ffcv
from fastlabel.images import turbojpeg
from fastlabel.images.turbojpeg import OK, decode_jpeg
from fastlabel.kernels.numba_cache import digest
from fastlabel.kernels.resized_crop import numba as crop_kernel
from fastlabel.kernels.resized_crop.numba import resized_crop_in

BAD_RAW_SIZE, BAD_BOX, BAD_MODE = 3, 4, 5
# The files whose code is compiled into the loop below.
COMPILED = (crop_kernel, *crop_kernel.SOURCES, turbojpeg)
JPEG, RAW = int(ffcv.IMAGE_MODES["jpg"]), int(ffcv.IMAGE_MODES["raw"])


@njit(nogil=True)
def _crop_views(pixels, height, width, boxes_V5, out_VSS3, scratch):
    image = pixels[: height * width * 3].reshape(height, width, 3)
    for v in range(len(boxes_V5)):
        if not resized_crop_in(image, boxes_V5[v], out_VSS3[v], scratch):
            return BAD_BOX
    return OK


def _compile(sources: str) -> Any:
    @njit(parallel=True, nogil=True, cache=True, error_model="numpy")
    def decode_views(
        ids, file, index_N, nbytes_N, boxes_BV5, out_BVSS3, status_B, pixels_TP, scratch_TQ, headers_T4, handles_T
    ):
        """Fill out uint8 [B, V, S, S, 3] and status [B] for a batch of sample ids.

        ``file`` is all bytes of the file, ``index_N`` says where and how each sample's image is stored in it, and
        ``nbytes_N`` in how many bytes.
        ``pixels_TP`` (a decoded image), ``scratch_TQ`` (see ``scratch_bytes``), ``headers_T4`` and ``handles_T`` belong
        to the threads, not to the samples.
        """
        _ = sources  # closed over, see kernels/numba_cache.py
        for b in prange(len(ids)):
            thread = get_thread_id()
            sample = index_N[ids[b]]
            height, width = np.int64(sample["height"]), np.int64(sample["width"])
            start = np.int64(sample["data_ptr"])
            data = file[start : start + nbytes_N[ids[b]]]
            if sample["mode"] == JPEG:
                pixels = pixels_TP[thread]
                status_B[b] = decode_jpeg(handles_T[thread], data, height, width, headers_T4[thread], pixels)
                if status_B[b] == OK:
                    status_B[b] = _crop_views(pixels, height, width, boxes_BV5[b], out_BVSS3[b], scratch_TQ[thread])
            elif sample["mode"] != RAW:
                status_B[b] = BAD_MODE
            elif data.size != height * width * 3:
                status_B[b] = BAD_RAW_SIZE
            else:
                status_B[b] = _crop_views(data, height, width, boxes_BV5[b], out_BVSS3[b], scratch_TQ[thread])

    return decode_views


decode_views = _compile(digest(COMPILED))


class ViewsDecoder(ffcv.SimpleRGBImageDecoder):
    """FFCV operation that turns sample ids into uint8 [B, V, S, S, 3].

    FFCV would allocate its output once per epoch and overwrite it after ``batches_ahead`` batches. Here the memory
    argument brings all that one batch needs, see ``ImageLoader.decode``.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, None]:
        shape = (self.size, self.size, 3)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype(np.uint8)), None

    def generate_code(self) -> Callable[..., Any]:
        # Not compiled by FFCV, see load.py: all the work is in the kernel, which comes from Numba's cache.
        def decode(ids, memory, metadata, file):
            # Only the file's bytes: FFCV's table of sizes is ambiguous where a field is empty. And not
            # the metadata: its type depends on all fields, so that the kernel would be compiled for each kind of file.
            decode_views(ids, file, *memory)
            return memory[3]

        return decode


def explain(status: int, beton: Any, sample: int) -> str:
    """In words, why a sample did not decode."""
    height, width = int(beton.heights[sample]), int(beton.widths[sample])
    payload = beton.payload(sample)
    if status in (turbojpeg.BROKEN_JPEG, turbojpeg.WRONG_SIZE):
        return turbojpeg.explain(payload, height, width)
    if status == BAD_RAW_SIZE:
        return f"{len(payload)} raw bytes do not make {height}x{width} RGB pixels"
    if status == BAD_BOX:
        return f"its crop box leaves the image of {height}x{width} pixels"
    return "it is stored in a mode that is neither jpg nor raw"
