"""The device that a run computes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from fastlabel.errors import InputError


def pick_device(name: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = as_device(name)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"the device {name} is not supported: give auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here: give the device cpu")
    return device


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which code that says "cuda" without a number means this device, if it is one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def as_device(name: str | torch.device) -> torch.device:
    """The device of that name, whether it is there or not. Raises InputError where there is no such name."""
    try:
        return torch.device(name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"unknown device {name!r}: give auto, cpu or cuda") from error
