"""libturbojpeg called from Numba code, as FFCV's own C++ part calls it, but with its return codes looked at.

FFCV decodes with the fast DCT and ignores errors. Here the DCT is the accurate one (libjpeg's default, equal to
Pillow's) and a warning counts as an error: a .beton holds JPEGs that an encoder wrote, not files from the wild.
"""

from __future__ import annotations

import ctypes
import ctypes.util

import llvmlite.binding as llvm
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from fastlabel.errors import FastlabelError

_address, _int = types.uintp, types.int32


def _find_library() -> str:
    name = ctypes.util.find_library("turbojpeg")
    if name is None:
        raise FastlabelError("libturbojpeg is not installed; on Debian or Ubuntu: apt-get install libturbojpeg0-dev")
    # Symbols found this way are resolved by name, so that compiled code can be cached on disk.
    llvm.load_library_permanently(name)
    return name


LIBRARY = ctypes.CDLL(_find_library())
LIBRARY.tjInitDecompress.restype = ctypes.c_void_p
LIBRARY.tjDestroy.argtypes = [ctypes.c_void_p]
LIBRARY.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
LIBRARY.tjGetErrorStr2.restype = ctypes.c_char_p

_decompress = types.ExternalFunction(
    "tjDecompress2",
    _int(_address, _address, types.uint64, _address, _int, _int, _int, _int, _int),
)
_header = types.ExternalFunction(
    "tjDecompressHeader3",
    _int(_address, _address, types.uint64, _address, _address, _address, _address),
)
_PIXEL_FORMAT_RGB, _ACCURATE_DCT = 0, 4096

OK, BROKEN_JPEG, WRONG_SIZE = 0, 1, 2


@njit(nogil=True, cache=True)
def decode_jpeg(handle, jpeg, height, width, header, destination):
    """Decode JPEG bytes into uint8 [height * width * 3]; OK, BROKEN_JPEG or WRONG_SIZE.

    ``header`` is scratch space, int32 [4]; ``handle`` a decompressor that no other thread uses.
    """
    bytes_at, count = jpeg.ctypes.data, np.uint64(jpeg.size)
    out = header.ctypes.data
    if _header(handle, bytes_at, count, out, out + 4, out + 8, out + 12) != 0:
        return BROKEN_JPEG
    if header[0] != width or header[1] != height:
        return WRONG_SIZE
    status = _decompress(
        handle,
        bytes_at,
        count,
        destination.ctypes.data,
        np.int32(width),
        np.int32(3 * width),
        np.int32(height),
        np.int32(_PIXEL_FORMAT_RGB),
        np.int32(_ACCURATE_DCT),
    )
    return OK if status == 0 else BROKEN_JPEG


class Decompressors:
    """One libturbojpeg decompressor for each thread that decodes."""

    def __init__(self, count: int) -> None:
        self.handles: NDArray[np.uint64] = np.array([LIBRARY.tjInitDecompress() for _ in range(count)], np.uint64)

    def close(self) -> None:
        """Give the decompressors back; safe to call twice."""
        handles, self.handles = self.handles, np.empty(0, np.uint64)
        for handle in handles:
            LIBRARY.tjDestroy(int(handle))


def explain(jpeg: bytes, height: int, width: int) -> str:
    """What libjpeg says of JPEG bytes that did not decode."""
    decompressors = Decompressors(1)
    handle = decompressors.handles[0]
    data = np.frombuffer(jpeg, np.uint8)
    header = np.zeros(4, np.int32)
    status = decode_jpeg(handle, data, height, width, header, np.empty(height * width * 3, np.uint8))
    message = LIBRARY.tjGetErrorStr2(int(handle)).decode(errors="replace")
    decompressors.close()
    if status == WRONG_SIZE:
        return f"the JPEG is {header[1]}x{header[0]} pixels, the file's index says {height}x{width}"
    return f"libjpeg says: {message}" if status else "it decodes now: the file changed while it was read"
