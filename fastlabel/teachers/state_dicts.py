"""State dicts that others wrote, as people have them: found in their wrappers, and fitted to a network by name."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from fastlabel.errors import TeacherError
from fastlabel.models.architectures import build_model

# In this order: weights under the first of these keys are taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "state")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
# Heads that only training uses, and that our networks are built without.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def state_dict_of(path: str | Path, content: Any) -> dict[str, Tensor]:
    """The state dict in the contents of a file, bare or in one of the usual wrappers. TeacherError without one."""
    if _is_state_dict(content):
        return content
    if isinstance(content, dict):
        for key in _WRAPPERS:
            if key in content and _is_state_dict(content[key]):
                return content[key]
        found = f"a dictionary of {', '.join(map(str, list(content)[:8])) or 'nothing'}"
    else:
        found = type(content).__name__
    raise TeacherError(
        f"{path} holds no state dict: it is {found}; expected names of tensors, or such a "
        f"dictionary under one of {', '.join(_WRAPPERS)}"
    )


def fit_network(path: str | Path, arch: str, state: Mapping[str, Tensor], size: int | None) -> tuple[nn.Module, int]:
    """The network `arch` with these weights, and its number of classes, which its last layer tells.

    `size` is the side of its images in pixels, where it is known. Raises TeacherError, with the keys that are missing,
    unexpected or of another shape, where they do not fit.
    """
    # A build draws random weights that are thrown away: the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        two, three = (_shapes(arch, classes, size) for classes in (2, 3))
        state = _renamed(arch, state, set(two))
        num_classes = _num_classes(path, arch, state, two, three)
        network = build_model(arch, num_classes, size)
    _check_keys(path, arch, state, {name: tensor.shape for name, tensor in network.state_dict().items()})
    network.load_state_dict(state, strict=False)
    return network, num_classes


def vit_size(arch: str, state: Mapping[str, Tensor]) -> int | None:
    """The side of the images of torchvision's vision transformers, which the positions in their weights fix."""
    positions = next((value for name, value in state.items() if name.endswith("encoder.pos_embedding")), None)
    patches = next((value for name, value in state.items() if name.endswith("conv_proj.weight")), None)
    if not arch.startswith("vit_") or positions is None or patches is None:
        return None
    return round((positions.shape[1] - 1) ** 0.5) * patches.shape[-1]


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _shapes(arch: str, num_classes: int, size: int | None) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = build_model(arch, num_classes, size if arch.startswith("convnet-") else None)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _renamed(arch: str, state: Mapping[str, Tensor], wanted: set[str]) -> Mapping[str, Tensor]:
    """Without the prefixes that wrappers put before every name, and without what they count for themselves."""
    if set(state) >= wanted:
        return state
    fresh: Any = OrderedDict(state)
    if hasattr(state, "_metadata"):
        fresh._metadata = OrderedDict(state._metadata)
    fresh.pop("n_averaged", None)
    while prefix := next((p for p in _PREFIXES if fresh and all(name.startswith(p) for name in fresh)), None):
        if {name.partition(".")[0] for name in wanted} == {prefix[:-1]}:
            break
        consume_prefix_in_state_dict_if_present(fresh, prefix)
    if any("_orig_mod." in name for name in fresh):
        fresh = OrderedDict((name.replace("_orig_mod.", ""), value) for name, value in fresh.items())
    if arch.startswith("densenet"):
        fresh = OrderedDict((_OLD_DENSENET.sub(r"\1\2", name), value) for name, value in fresh.items())
    return fresh


def _num_classes(
    path: str | Path, arch: str, state: Mapping[str, Tensor], two: dict[str, torch.Size], three: dict[str, torch.Size]
) -> int:
    """What the last layer has where networks of 2 and of 3 classes differ."""
    head = {name: shape for name, shape in two.items() if shape != three[name]}
    for name, shape in head.items():
        if name in state and state[name].ndim == len(shape):
            axis = next(axis for axis, (a, b) in enumerate(zip(shape, three[name], strict=True)) if a != b)
            return int(state[name].shape[axis])
    raise TeacherError(
        f"{path} does not fit {arch}: it lacks the last layer ({', '.join(head)}); it has {_few(list(state))}"
    )


def _check_keys(path: str | Path, arch: str, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    auxiliary = _AUXILIARY.get(arch, ())
    unexpected = [name for name in state if name not in wanted and not name.startswith(auxiliary or "\0")]
    reshaped = [
        f"{name} {list(state[name].shape)} for {list(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    faults = [
        f"{len(names)} {what} ({_few(names)})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
        if names
    ]
    if faults:
        raise TeacherError(f"{path} does not fit {arch}: of its keys {', '.join(faults)}; is --arch right?")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
