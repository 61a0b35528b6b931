"""libturbojpeg called from Numba code, as FFCV's own C++ part calls it, but with its return codes looked at.

FFCV decodes with the fast DCT and ignores errors. Here the DCT is the accurate one (libjpeg's default, equal to
Pillow's) and a warning counts as an error: it says that pixels are missing or wrong.

Every image gets a decompressor of its own, which costs half a microsecond: one that has served before still holds the
tables of other images, and a JPEG that lacks its own would be decoded by those.
"""

from __future__ import annotations

import ctypes
import ctypes.util

import llvmlite.binding as llvm
import numpy as np
from numba import types
from numpy.typing import NDArray

from fastlabel.errors import FastlabelError
from fastlabel.kernels.numba_cache import cached_njit

_address, _int = types.uintp, types.int32


def _find_library() -> str:
    name = ctypes.util.find_library("turbojpeg")
    if name is None:
        raise FastlabelError("libturbojpeg is not installed; on Debian or Ubuntu: apt-get install libturbojpeg0-dev")
    # Symbols found this way are resolved by name, so that compiled code can be cached on disk.
    llvm.load_library_permanently(name)
    return name


_library = ctypes.CDLL(_find_library())
_library.tjInitDecompress.restype = ctypes.c_void_p
_library.tjDestroy.argtypes = [ctypes.c_void_p]
_library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
_library.tjGetErrorStr2.restype = ctypes.c_char_p

_init = types.ExternalFunction("tjInitDecompress", _address())
_destroy = types.ExternalFunction("tjDestroy", _int(_address))
_decompress = types.ExternalFunction(
    "tjDecompress2",
    _int(_address, _address, types.uint64, _address, _int, _int, _int, _int, _int),
)
_header = types.ExternalFunction(
    "tjDecompressHeader3",
    _int(_address, _address, types.uint64, _address, _address, _address, _address),
)
_ACCURATE_DCT = 4096
_RGB, _CMYK = 0, 11  # pixel formats

OK, BROKEN_JPEG, WRONG_SIZE = 0, 1, 2


@cached_njit(nogil=True)
def decode_jpeg(jpeg, height, width, destination):
    """Decode JPEG bytes, a uint8 vector, into uint8 [height * width * 3]; OK, BROKEN_JPEG or WRONG_SIZE."""
    handle = _init()
    if handle == 0:
        return BROKEN_JPEG
    status = _decode(handle, jpeg, height, width, np.empty(4, np.int32), destination, _RGB, 3)
    _destroy(handle)
    return status


@cached_njit(nogil=True)
def _decode(handle, jpeg, height, width, header, destination, pixel_format, channels):
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
        np.int32(channels * width),
        np.int32(height),
        np.int32(pixel_format),
        np.int32(_ACCURATE_DCT),
    )
    return OK if status == 0 else BROKEN_JPEG


def read_jpeg(jpeg: bytes, height: int, width: int, cmyk: bool = False) -> tuple[NDArray[np.uint8], str | None]:
    """Pixels uint8 [height, width, 3, or 4 of CMYK] of JPEG bytes, and libjpeg's complaint about them or None."""
    channels, pixel_format = (4, _CMYK) if cmyk else (3, _RGB)
    handle = _library.tjInitDecompress()
    header, pixels = np.zeros(4, np.int32), np.zeros((height, width, channels), np.uint8)
    data, flat = np.frombuffer(jpeg, np.uint8), pixels.reshape(-1)
    status = _decode(np.uint64(handle), data, height, width, header, flat, pixel_format, channels)
    message = _library.tjGetErrorStr2(handle).decode(errors="replace")
    _library.tjDestroy(handle)
    if status == WRONG_SIZE:
        return pixels, f"the JPEG is {header[1]}x{header[0]} pixels, the file's index says {height}x{width}"
    return pixels, f"libjpeg says: {message}" if status else None


def explain(jpeg: bytes, height: int, width: int) -> str:
    """What libjpeg says of JPEG bytes that did not decode."""
    return read_jpeg(jpeg, height, width)[1] or "it decodes now: the file changed while it was read"
