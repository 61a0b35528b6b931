"""Decoding whole images into one buffer, for a device that makes the crops."""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from fastlabel.dataset import tables, turbojpeg
from fastlabel.dataset.tables import JPEG, RAW
from fastlabel.dataset.turbojpeg import OK, decode_jpeg
from fastlabel.images import decode, file_bytes
from fastlabel.images.decode import BAD_MODE, BAD_RAW_SIZE
from fastlabel.images.file_bytes import read_bytes
from fastlabel.kernels.numba_cache import cached_njit


@cached_njit(depends_on=(decode, turbojpeg, tables, file_bytes), parallel=True, nogil=True, error_model="numpy")
def decode_whole(ids, descriptor, index_N, nbytes_N, offsets_B, pixels_P, status_B, payloads_TP):
    """Fill pixels uint8 [P] from each byte of ``offsets_B`` on with the RGB rows of a sample, and status [B].

    The other arguments are those of ``decode.decode_views``.
    """
    for b in prange(len(ids)):
        sample, nbytes = index_N[ids[b]], nbytes_N[ids[b]]
        height, width = np.int64(sample["height"]), np.int64(sample["width"])
        start = np.int64(sample["data_ptr"])
        pixels = pixels_P[offsets_B[b] : offsets_B[b] + height * width * 3]
        if sample["mode"] == JPEG:
            payload = payloads_TP[get_thread_id(), :nbytes]
            status_B[b] = read_bytes(descriptor, start, payload)
            if status_B[b] == OK:
                status_B[b] = decode_jpeg(payload, height, width, pixels)
        elif sample["mode"] != RAW:
            status_B[b] = BAD_MODE
        elif nbytes != pixels.size:
            status_B[b] = BAD_RAW_SIZE
        else:
            status_B[b] = read_bytes(descriptor, start, pixels)
