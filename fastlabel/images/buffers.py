"""Batches that stay valid as long as someone holds them, without a fresh allocation for each."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray


class BufferPool:
    """Hands out uint8 buffers and takes each one back when the last tensor on it is gone.

    A fresh buffer of a batch costs page faults on every page; one that comes back does not.
    """

    def __init__(self, shape: tuple[int, ...], keep: int) -> None:
        self._shape = shape
        # No lock: a finalizer may run in the middle of `take`, in the same thread. A deque needs none.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=keep)

    def take(self, count: int) -> tuple[NDArray[np.uint8], torch.Tensor]:
        """An array of ``count`` rows, and a tensor on the same memory that keeps it from being used again."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._shape, np.uint8)
        # The tensor's storage, and so every view of it, holds ``lease``; the pool holds only ``buffer``.
        lease = buffer[:]
        tensor = torch.from_numpy(lease)
        finalizer = weakref.finalize(lease, self._free.append, buffer)
        finalizer.atexit = False
        return buffer[:count], tensor[:count]
