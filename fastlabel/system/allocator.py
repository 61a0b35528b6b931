"""The C library's allocator, told to keep what is freed instead of handing it back to the kernel.

A network on a CPU frees and takes tens of megabytes in every layer. By default glibc maps each such block anew, and the
kernel clears every page of it: often more work than the layer itself. docs/benchmarks.md has figures.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from fastlabel.errors import InputError

SWITCH = "FASTLABEL_MALLOC"
# From malloc.h: the option's number, the value that makes glibc keep memory, and the variable by which a user sets it.
_OPTIONS = (
    (-4, 0, "MALLOC_MMAP_MAX_"),  # M_MMAP_MAX: no block is mapped on its own
    (-1, -1, "MALLOC_TRIM_THRESHOLD_"),  # M_TRIM_THRESHOLD: the heap's free end stays
)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc keep freed memory of this process for its next blocks: faster networks on a CPU, at a higher peak.

    The commands that run networks call it when they start, unless `FASTLABEL_MALLOC=default` is set. fastlabel as a
    library never does: call it yourself, best before the first tensor is made. What `MALLOC_MMAP_MAX_`,
    `MALLOC_TRIM_THRESHOLD_` and `GLIBC_TUNABLES` say in the environment stays as it is.

    Args:
        environment: variables that may say otherwise.

    Returns:
        Whether something was set: not without glibc, nor where the environment says otherwise.

    Raises:
        InputError: `FASTLABEL_MALLOC` has another value.
    """
    switch = environment.get(SWITCH, "")
    if switch not in ("", "default"):
        raise InputError(f"{SWITCH} is {switch!r}: set it to default, which leaves the allocator alone, or not at all")
    if switch or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    # Other C libraries have no mallopt, or one whose options mean something else.
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    chosen = [(option, value) for option, value, variable in _OPTIONS if variable not in environment]
    return any([library.mallopt(option, value) for option, value in chosen])
