"""What every decoding thread has for itself: memory for one image as it is stored, decoded, and for one crop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import InputError
from fastlabel.kernels.resized_crop.numba import scratch_bytes

_PAGE = 4096  # rows that begin with one share no cache line, and no prefetch, with those of other threads


class Workspace:
    """Memory for as many threads, for any image of a file and crops of size x size. Untouched pages take none.

    Attributes:
        payloads_TP: uint8 [threads, bytes], an image as it is stored.
        pixels_TP: uint8 [threads, height * width * 3 or more], a decoded image.
        scratch_TQ: uint8, the temporaries of a crop, see ``kernels/resized_crop/scratch.py``.
    """

    def __init__(
        self, threads: int, heights: NDArray[np.int32], widths: NDArray[np.int32], most_bytes: int, size: int
    ) -> None:
        pixels = heights.astype(np.int64) * widths
        scratch = scratch_bytes(int(heights.max()), int(widths.max()), size)
        try:
            self.payloads_TP = _rows_of_pages(threads, most_bytes)
            self.pixels_TP = _rows_of_pages(threads, 3 * int(pixels.max()))
            self.scratch_TQ = _rows_of_pages(threads, scratch)
        except MemoryError as error:
            largest = int(pixels.argmax())
            raise InputError(
                f"there is no memory for {threads} images as large as that of sample {largest}, which has "
                f"{heights[largest]}x{widths[largest]} pixels"
            ) from error

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """The last arguments of ``decode_views``."""
        return self.payloads_TP, self.pixels_TP, self.scratch_TQ


def _rows_of_pages(count: int, nbytes: int) -> NDArray[np.uint8]:
    """uint8 [count, nbytes or more], each row at the beginning of a page."""
    row = -(-nbytes // _PAGE) * _PAGE
    memory = np.empty(count * row + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + count * row].reshape(count, row)
