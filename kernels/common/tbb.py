"""Which libtbb this process loads: the one of the package `tbb`, before anything brings that of the system."""

from __future__ import annotations

import contextlib
import ctypes
from importlib import metadata

LIBRARY = "libtbb.so.12"


def load_packaged_tbb() -> None:
    """Load the package's libtbb, if it is installed; what asks for `libtbb.so.12` later is bound to it.

    OpenCV, which ffcv links, brings the system's. Before 2021.11 that one keeps about 7 kB at each call of a parallel
    kernel: gigabytes in a long training.
    """
    with contextlib.suppress(metadata.PackageNotFoundError, OSError):
        for file in metadata.files("tbb") or ():
            if file.name == LIBRARY:
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
