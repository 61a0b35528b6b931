"""How much memory one call takes at its peak, beyond what was held before."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of one call less those before it; None where the system does not tell.

    CUDA: what the caching allocator gave out. CPU: resident memory of the process, all of it, Numba's scratch too.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not _CLEAR.exists():
        return None
    call()  # what stays (compiled code, thread stacks) is there before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no longer resident, and counts when it is used again
    _CLEAR.write_text("5")  # resets the high-water mark: man 5 proc
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
