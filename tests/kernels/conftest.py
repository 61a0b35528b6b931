"""Logits that every op test shares: realistic, extreme, flat, tied, with holes. And where Triton kernels run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

MakeLogits = Callable[..., Tensor]


def _logits(kind: str, B: int, C: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(B, C, generator=generator)
    peak = torch.randint(C, (B, 1), generator=generator)
    if kind == "gaussian":
        return normal * 2.5
    if kind == "extreme":
        return torch.rand(B, C, generator=generator) * 2e4 - 1e4
    if kind == "equal":
        return torch.full((B, C), float(seed))
    if kind == "flat":
        return normal * 1e-3
    if kind == "confident":
        return normal.scatter(1, peak, 60.0)
    if kind == "lonely":  # one class, thousands of nats above all others
        return normal.scatter(1, peak, 5000.0)
    if kind == "ties":
        return (normal * 2).round()
    assert kind == "holes"
    return normal.masked_fill(torch.rand(B, C, generator=generator) < 0.5, -torch.inf).scatter(1, peak, 1.0)


@pytest.fixture(scope="session")
def make_logits() -> MakeLogits:
    """make_logits(kind, B, C, seed) -> float32 [B, C]."""
    return _logits


@pytest.fixture(scope="session")
def triton_device() -> str:
    """Where tensors for Triton's kernels are: on the GPU, or for its interpreter on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
