"""Decoding whole images into one buffer, for a device that makes the crops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_thread_id, njit, prange

from fastlabel.images import turbojpeg
from fastlabel.images.decode import BAD_MODE, BAD_RAW_SIZE, JPEG, RAW
from fastlabel.images.turbojpeg import OK, decode_jpeg
from fastlabel.kernels.numba_cache import digest


def _compile(sources: str) -> Any:
    @njit(parallel=True, nogil=True, cache=True, error_model="numpy")
    def decode_whole(ids, file, index_N, nbytes_N, offsets_B, pixels_P, status_B, headers_T4, handles_T):
        """Fill pixels uint8 [P] from each byte of ``offsets_B`` on with the RGB rows of a sample, and status [B].

        ``file``, ``index_N`` and ``nbytes_N`` are those of ``decode.decode_views``; ``headers_T4`` and ``handles_T``
        belong to the threads.
        """
        _ = sources  # closed over, see kernels/numba_cache.py
        for b in prange(len(ids)):
            thread = get_thread_id()
            sample = index_N[ids[b]]
            height, width = np.int64(sample["height"]), np.int64(sample["width"])
            start = np.int64(sample["data_ptr"])
            data = file[start : start + nbytes_N[ids[b]]]
            pixels = pixels_P[offsets_B[b] : offsets_B[b] + height * width * 3]
            if sample["mode"] == JPEG:
                status_B[b] = decode_jpeg(handles_T[thread], data, height, width, headers_T4[thread], pixels)
            elif sample["mode"] != RAW:
                status_B[b] = BAD_MODE
            elif data.size != pixels.size:
                status_B[b] = BAD_RAW_SIZE
            else:
                pixels[:] = data
                status_B[b] = OK

    return decode_whole


decode_whole = _compile(digest((turbojpeg,)))
