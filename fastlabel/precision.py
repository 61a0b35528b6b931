"""How a teacher runs, whatever the program around it has switched on: its labels must come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _settings() -> dict[tuple[Any, str], Any]:
    """Each setting, and the value that gives full float32 and the same algorithms every time."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    wanted: dict[tuple[Any, str], Any] = {(cudnn, "benchmark"): False, (cudnn, "deterministic"): True}
    # PyTorch refuses to read the old names of these once a program has used the new ones.
    if hasattr(matmul, "fp32_precision"):
        return wanted | {(matmul, "fp32_precision"): "ieee", (cudnn.conv, "fp32_precision"): "ieee"}
    return wanted | {(matmul, "allow_tf32"): False, (cudnn, "allow_tf32"): False}


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """No TF32, no autocast, and cuDNN's deterministic algorithms, while a teacher labels."""
    wanted = _settings()
    before = {key: getattr(*key) for key in wanted}
    try:
        for (owner, name), value in wanted.items():
            setattr(owner, name, value)
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)
