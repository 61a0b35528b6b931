"""Where and when figures were made, for reports of what was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def processor() -> str:
    """The model of the processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def hardware(device: torch.device) -> str:
    """The device that trained, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores of {processor()}, no GPU"


def package_versions(*names: str) -> dict[str, str]:
    """Versions of packages by name; "not installed" for those that only lie on the path, as a checkout does."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def versions() -> str:
    """The date, and what ran."""
    packages = ", ".join(" ".join(pair) for pair in package_versions("fastlabel", "torch", "numba", "zarr").items())
    return f"{datetime.now(UTC).date().isoformat()}; Python {platform.python_version()}, {packages}"
