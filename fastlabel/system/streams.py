"""Tensors that one thread makes on a CUDA device and another one reads, each on its own stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def has_streams(device: torch.device) -> bool:
    """Whether work on this device is queued on streams, one after another within each only."""
    return device.type == "cuda"


def mark(device: torch.device) -> Any:
    """An event after all that the calling thread has put on its current stream of a device; None without streams."""
    if not has_streams(device):
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def receive(made: Any, tensors: Iterable[Tensor]) -> None:
    """Let the current stream of the calling thread read tensors of another one: it waits for them, this thread not.

    Args:
        made: event after the work that makes them; None without streams.
        tensors: on one device.
    """
    if made is None:
        return
    tensors = list(tensors)
    stream = torch.cuda.current_stream(tensors[0].device)
    stream.wait_event(made)
    for tensor in tensors:
        # Else memory that was let go of would be used again by the maker's stream while this one still reads it.
        tensor.record_stream(stream)
