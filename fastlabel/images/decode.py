"""The decoder: each image is read and decoded once and cropped V times, by boxes that are handed in.

Of a JPEG with restart markers only what the boxes need is decoded (see `region`): the pixels are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import get_num_threads, get_thread_id, njit, prange

from fastlabel.dataset import tables, turbojpeg
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.tables import JPEG, RAW
from fastlabel.dataset.turbojpeg import OK, decode_jpeg
from fastlabel.images import file_bytes, region
from fastlabel.images.file_bytes import CUT_SHORT, READ_FAILED, read_bytes
from fastlabel.images.region import take_region
from fastlabel.kernels.numba_cache import cached_njit
from fastlabel.kernels.resized_crop import numba as crop_kernel
from fastlabel.kernels.resized_crop.numba import resized_crop_in

BAD_RAW_SIZE, BAD_BOX, BAD_MODE = 3, 4, 5


def _start_threads() -> None:
    """Start Numba's threads now: its OpenMP layer sets the number of torch's threads then, which is put back."""
    torch_threads = torch.get_num_threads()
    get_num_threads()
    torch.set_num_threads(torch_threads)


_start_threads()


@njit(nogil=True)
def _crop_views(pixels, height, width, top, left, boxes_V5, out_VSS3, scratch):
    """Crops of the pixels of an image from (top, left) on."""
    image, box = pixels[: height * width * 3].reshape(height, width, 3), np.empty(5, np.int32)
    for v in range(len(boxes_V5)):
        box[:] = boxes_V5[v]
        box[0] -= top
        box[1] -= left
        if not resized_crop_in(image, box, out_VSS3[v], scratch):
            return BAD_BOX
    return OK


@njit(nogil=True)
def _take_boxes(payload, height, width, boxes_V5, pixels):
    """`take_region` of all boxes, into the end of `pixels`; in front of it is room for the region's own pixels."""
    top, left, bottom, right = height, width, np.int64(0), np.int64(0)
    for v in range(len(boxes_V5)):
        y, x = np.int64(boxes_V5[v, 0]), np.int64(boxes_V5[v, 1])
        top, left = min(top, y), min(left, x)
        bottom, right = max(bottom, y + boxes_V5[v, 2]), max(right, x + boxes_V5[v, 3])
    room = pixels[pixels.size - min(pixels.size, payload.size) :]
    found = take_region(payload, height, width, top, left, bottom, right, room)
    fits = found[3] * found[4] * 3 + payload.size <= pixels.size
    return (found if fits else (0, 0, 0, 0, 0)), room


@njit(nogil=True)
def _crop_jpeg(payload, height, width, boxes_V5, out_VSS3, pixels, scratch):
    (nbytes, top, left, rows, columns), room = _take_boxes(payload, height, width, boxes_V5, pixels)
    if nbytes and decode_jpeg(room[:nbytes], rows, columns, pixels) == OK:
        return _crop_views(pixels, rows, columns, top, left, boxes_V5, out_VSS3, scratch)
    status = decode_jpeg(payload, height, width, pixels)
    return _crop_views(pixels, height, width, 0, 0, boxes_V5, out_VSS3, scratch) if status == OK else status


@cached_njit(depends_on=(crop_kernel, turbojpeg, tables, region), nogil=True)
def crop_payload(mode, payload, height, width, boxes_V5, out_VSS3, pixels, scratch):
    """Fill out uint8 [V, S, S, 3] with the crops of one image that is stored as ``payload``; its status.

    ``pixels`` has room for the decoded image, ``scratch`` for a crop's temporaries (see ``scratch_bytes``).
    """
    if mode == JPEG:
        return _crop_jpeg(payload, height, width, boxes_V5, out_VSS3, pixels, scratch)
    if mode != RAW:
        return BAD_MODE
    if payload.size != height * width * 3:
        return BAD_RAW_SIZE
    return _crop_views(payload, height, width, 0, 0, boxes_V5, out_VSS3, scratch)


@cached_njit(
    depends_on=(crop_kernel, turbojpeg, tables, file_bytes, region), parallel=True, nogil=True, error_model="numpy"
)
def decode_views(
    ids, descriptor, index_N, nbytes_N, boxes_BV5, out_BVSS3, status_B, payloads_TP, pixels_TP, scratch_TQ
):
    """Fill out uint8 [B, V, S, S, 3] and status [B] for a batch of sample ids.

    ``descriptor`` is the open file, ``index_N`` says where and how each sample's image is stored in it, and
    ``nbytes_N`` in how many bytes.
    ``payloads_TP`` (an image as it is stored), ``pixels_TP`` (decoded) and ``scratch_TQ`` (see ``scratch_bytes``)
    belong to the threads, not to the samples.
    """
    for b in prange(len(ids)):
        thread = get_thread_id()
        sample = index_N[ids[b]]
        height, width = np.int64(sample["height"]), np.int64(sample["width"])
        payload = payloads_TP[thread, : nbytes_N[ids[b]]]
        status = read_bytes(descriptor, np.int64(sample["data_ptr"]), payload)
        if status == OK:
            pixels, scratch = pixels_TP[thread], scratch_TQ[thread]
            status = crop_payload(sample["mode"], payload, height, width, boxes_BV5[b], out_BVSS3[b], pixels, scratch)
        status_B[b] = status


def explain(status: int, beton: Beton, sample: int) -> str:
    """In words, why a sample did not decode."""
    height, width = int(beton.heights[sample]), int(beton.widths[sample])
    if status == CUT_SHORT:
        return "the file ends before its bytes do"
    if status == BAD_MODE:
        return "it is stored in a mode that is neither jpg nor raw"
    if status == BAD_BOX:
        return f"its crop box leaves the image of {height}x{width} pixels"
    try:
        payload = beton.payload(sample)
    except OSError as error:
        return f"its bytes cannot be read: {error}"
    if status == BAD_RAW_SIZE:
        return f"{len(payload)} raw bytes do not make {height}x{width} RGB pixels"
    if status == READ_FAILED:
        return "its bytes could not be read, though they can be now"
    return turbojpeg.explain(payload, height, width)
