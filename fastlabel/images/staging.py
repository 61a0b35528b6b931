"""Host memory from which whole images go to a device, pinned for CUDA."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

BUFFERS = 2  # one is filled while the other one goes up


class Staging:
    """A few buffers of ``nbytes`` bytes, used in turn: each again only when the copy out of it is done.

    On CUDA they are pinned, and copies and the crops made of them run on a stream of their own, beside what the
    reader's stream does. On the CPU nothing is copied.
    """

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self.device, self._nbytes = device, nbytes
        self._buffers: list[Tensor | None] = [None] * BUFFERS
        self._copied: list[Any] = [None] * BUFFERS  # events
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self) -> Tensor:
        """The next buffer, uint8 [nbytes]. Waits until it is free."""
        self._turn = (self._turn + 1) % BUFFERS
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        buffer = self._buffers[self._turn]
        if buffer is None:
            buffer = torch.empty(self._nbytes, dtype=torch.uint8, pin_memory=self._stream is not None)
            self._buffers[self._turn] = buffer
        return buffer

    def stream(self) -> AbstractContextManager[Any]:
        """A context in which this thread's work on the device goes to the stream of the copies."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def send(self, count: int) -> Tensor:
        """The first ``count`` bytes of the buffer taken last, on the device: within :meth:`stream`.

        On the CPU it is that buffer itself, good until it is taken again.
        """
        buffer = self._buffers[self._turn]
        assert buffer is not None
        there = buffer[:count].to(self.device, non_blocking=True)
        self._copied[self._turn] = self.event()
        return there

    def event(self) -> Any:
        """An event after all that was put on the stream so far; None on the CPU."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(blocking=True)  # a thread that spins would take a core from the decoders
        event.record(self._stream)
        return event
