"""The one door to ffcv, for its users: reading, labelling and training do without it.

Its import sets the thread counts of torch and numba to 1: here they are restored. Its Loader marks Numba's type of
uint8 vectors read-only for the whole process, after which no kernel that writes such a vector compiles any more: here
it does not.
"""

from __future__ import annotations

import warnings
from typing import Any

import numba
import numpy as np
import torch

import fastlabel.kernels  # noqa: F401  # picks the threading layer and its library before ffcv brings others

_torch_threads = torch.get_num_threads()
_numba_threads = numba.get_num_threads()
try:
    with warnings.catch_warnings():
        # ffcv 1.0.2 uses distutils, ast.Index and unescaped strings: its own business, not our user's.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.memory_managers.os_cache import OSCacheManager
        from ffcv.pipeline.allocation_query import AllocationQuery
        from ffcv.pipeline.compiler import Compiler
        from ffcv.reader import Reader
finally:
    torch.set_num_threads(_torch_threads)
    numba.set_num_threads(_numba_threads)


def _compile_reader(manager: Any) -> Any:
    def read(address, mem_state):  # type: ignore[no-untyped-def]
        data, pointers, sizes = mem_state
        return data[address : address + sizes[np.searchsorted(pointers, address)]]

    return Compiler.compile(read)


# With ffcv's own signature, Numba's interned type would be changed in place; without one, Numba finds the types itself.
OSCacheManager.compile_reader = _compile_reader

__all__ = [
    "AllocationQuery",
    "Compiler",
    "IntDecoder",
    "Loader",
    "OrderOption",
    "Reader",
    "SimpleRGBImageDecoder",
]
