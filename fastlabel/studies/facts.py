"""Where and when figures were made."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from fastlabel.machine import processor


def hardware(device: torch.device) -> str:
    """The device that trained, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores of {processor()}, no GPU"


def versions() -> str:
    """The date, and what ran."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("fastlabel", "torch", "numba", "zarr"))
    return f"{datetime.now(UTC).date().isoformat()}; Python {platform.python_version()}, {packages}"
