"""Reading a file from Numba code, without the interpreter.

Not through a mapping of the file: where that was cut short, or its disk fails, reading a mapping kills the process.
"""

from __future__ import annotations

import numpy as np
from numba import types

from fastlabel.kernels.numba_cache import cached_njit

CUT_SHORT, READ_FAILED = 6, 7
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))


@cached_njit(nogil=True)
def read_bytes(descriptor, start, destination):
    """Fill a uint8 vector with a file's bytes from ``start`` on: 0, CUT_SHORT or READ_FAILED."""
    done = 0
    while done < destination.size:
        at, left = destination.ctypes.data + np.uint64(done), np.uint64(destination.size - done)
        count = _pread(np.int32(descriptor), at, left, np.int64(start + done))
        if count < 0:
            return READ_FAILED
        if count == 0:
            return CUT_SHORT
        done += count
    return 0
