"""Whether a device had too little memory, said aloud or dealt with in silence."""

from __future__ import annotations

import torch

# Of errors that are not torch.OutOfMemoryError. cuDNN finds no engine where no engine's workspace fits.
_SIGNS = (
    "can't allocate memory",
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)


def failed_allocations(device: torch.device) -> int:
    """How often this process found no memory on a CUDA device, errors that PyTorch kept to itself included."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.memory_stats_as_nested_dict(device).get("num_ooms", 0))
