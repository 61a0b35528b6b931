"""Whether a state dict fits a network, by name, shape and type: found out before memory is spent on the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastlabel.models.architectures import build_model


def skeleton(arch: str, num_classes: int, size: int | None) -> dict[str, Tensor]:
    """The state dict of a network as tensors that take no memory. Raises as `build_model` does."""
    with torch.device("meta"):
        return build_model(arch, num_classes, size, tried=False).state_dict()


def misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], unused: Sequence[str] = ()) -> str | None:
    """Which keys of a state dict do not fit, such as "2 missing (fc.weight, fc.bias)"; None where all fit.

    Args:
        wanted: the network's own state dict, or its `skeleton`.
        unused: beginnings of keys that may be there though the network has none such.
    """
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted and not name.startswith(tuple(unused))]
    both = [(name, state[name], tensor) for name, tensor in wanted.items() if name in state]
    reshaped = [f"{name} {list(has.shape)} for {list(net.shape)}" for name, has, net in both if has.shape != net.shape]
    retyped = [
        f"{name} {_type(has)} for {_type(net)}"
        for name, has, net in both
        if has.is_floating_point() != net.is_floating_point() or has.is_complex() != net.is_complex()
    ]
    shapes_and_types = ((reshaped, "of another shape"), (retyped, "of another type"))
    kinds = ((missing, "missing"), (unexpected, "unexpected"), *shapes_and_types)
    return ", ".join(f"{len(names)} {what} ({few(names)})" for names, what in kinds if names) or None


def few(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
