"""The loss's Triton kernels for CPU tensors: on the GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from fastlabel.kernels.soft_cross_entropy import triton


def __getattr__(name: str) -> Any:
    return getattr(triton, name)


def forward(*arguments: Any) -> Any:
    """soft_cross_entropy.triton.forward, its results on the CPU."""
    return _there(triton.forward, arguments)


def backward(*arguments: Any, **options: Any) -> Any:
    """soft_cross_entropy.triton.backward, its result on the CPU."""
    return _there(triton.backward, arguments, **options)


def _there(function: Any, arguments: tuple[Any, ...], **options: Any) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), arguments)
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), function(*moved, **options))
