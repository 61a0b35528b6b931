"""What every decoding thread has for itself: memory for one image and one crop, and a decompressor."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

from fastlabel.images.turbojpeg import Decompressors
from fastlabel.kernels.resized_crop.numba import scratch_bytes

_PAGE = 4096  # rows that begin with one share no cache line, and no prefetch, with those of other threads
_HEADER = 16  # int32: a cache line for each thread


class Workspace:
    """Memory for as many threads, for images of at most height x width pixels and crops of size x size.

    Attributes:
        pixels_TP: uint8 [threads, height * width * 3 or more], a decoded image.
        scratch_TQ: uint8, the temporaries of a crop, see ``kernels/resized_crop/scratch.py``.
        headers_T4: int32, what libturbojpeg says of a JPEG.
        decompressors: one for each thread.
    """

    def __init__(self, threads: int, height: int, width: int, pixels: int, size: int) -> None:
        self.pixels_TP = _rows_of_pages(threads, pixels * 3)
        self.scratch_TQ = _rows_of_pages(threads, scratch_bytes(height, width, size))
        self.headers_T4 = np.zeros((threads, _HEADER), np.int32)
        self.decompressors = Decompressors(threads)
        # Not at exit: a thread may still be using them then.
        weakref.finalize(self, self.decompressors.close).atexit = False

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint64]]:
        """The last arguments of ``decode_views``."""
        return self.pixels_TP, self.scratch_TQ, self.headers_T4, self.decompressors.handles


def _rows_of_pages(count: int, nbytes: int) -> NDArray[np.uint8]:
    """uint8 [count, nbytes or more], each row at the beginning of a page; untouched pages take no memory."""
    row = -(-nbytes // _PAGE) * _PAGE
    memory = np.empty(count * row + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + count * row].reshape(count, row)
