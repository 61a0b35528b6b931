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
from fastlabel.models.state import few, misfit, skeleton
from fastlabel.models.weights import is_state_dict

# In this order: weights under the first of these keys are taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "state")
_PREFIXES = ("module.", "model.", "net.", "network.", "backbone.")
# What torch.compile, FSDP and activation checkpointing put before or between the parts of a name.
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What a training module keeps beside its network: losses and metrics, and the count of an averaged model.
_TRAINING_ONLY = ("criterion.", "loss.", "loss_fn.", "train_metrics.", "val_metrics.", "n_averaged")
# Heads that only training uses, and that our networks are built without.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def state_dict_of(path: str | Path, content: Any) -> dict[str, Tensor]:
    """The state dict in the contents of a file, bare or in one of the usual wrappers. TeacherError without one."""
    if is_state_dict(content):
        return content
    if isinstance(content, dict):
        for key in _WRAPPERS:
            if key in content and is_state_dict(content[key]):
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
    unexpected, or of another shape or type, where they do not fit.
    """
    # A build draws random weights that are thrown away: the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        two, three = (skeleton(arch, classes, size) for classes in (2, 3))
        state = _renamed(arch, state, set(two))
        num_classes = _num_classes(path, arch, state, two, three)
        reason = misfit(state, skeleton(arch, num_classes, size), _AUXILIARY.get(arch, ()))
        if reason is not None:
            raise TeacherError(f"{path} does not fit {arch}: of its keys {reason}; is --arch right?")
        network = build_model(arch, num_classes, size)
    network.load_state_dict(state, strict=False)  # strict would ask for counts of batches, which nothing reads
    return network, num_classes


def vit_size(arch: str, state: Mapping[str, Tensor]) -> int | None:
    """The side of the images of torchvision's vision transformers, which the positions in their weights fix."""
    positions = next((value for name, value in state.items() if name.endswith("encoder.pos_embedding")), None)
    patches = next((value for name, value in state.items() if name.endswith("conv_proj.weight")), None)
    if not arch.startswith("vit_") or positions is None or patches is None:
        return None
    return round((positions.shape[1] - 1) ** 0.5) * patches.shape[-1]


def _renamed(arch: str, state: Mapping[str, Tensor], wanted: set[str]) -> Mapping[str, Tensor]:
    """Without the prefixes that wrappers put before names, and without what they keep for themselves."""
    if set(state) >= wanted:
        return state
    fresh: Any = OrderedDict((_INNER.sub("", name), value) for name, value in state.items())
    if hasattr(state, "_metadata"):
        fresh._metadata = OrderedDict((_INNER.sub("", f"{name}.")[:-1], v) for name, v in state._metadata.items())
    while True:
        for name in [name for name in fresh if name.startswith(_TRAINING_ONLY) and name not in wanted]:
            del fresh[name]
        prefix = next((p for p in _PREFIXES if fresh and all(name.startswith(p) for name in fresh)), None)
        if prefix is None or {name.partition(".")[0] for name in wanted} == {prefix[:-1]}:
            break
        consume_prefix_in_state_dict_if_present(fresh, prefix)
    if arch.startswith("densenet"):
        fresh = OrderedDict((_OLD_DENSENET.sub(r"\1\2", name), value) for name, value in fresh.items())
    return fresh


def _num_classes(
    path: str | Path, arch: str, state: Mapping[str, Tensor], two: dict[str, Tensor], three: dict[str, Tensor]
) -> int:
    """What the last layer has where networks of 2 and of 3 classes differ."""
    head = {name: tensor.shape for name, tensor in two.items() if tensor.shape != three[name].shape}
    for name, shape in head.items():
        if name in state and state[name].ndim == len(shape):
            axis = next(axis for axis, (a, b) in enumerate(zip(shape, three[name].shape, strict=True)) if a != b)
            return int(state[name].shape[axis])
    raise TeacherError(
        f"{path} does not fit {arch}: it lacks the last layer ({', '.join(head)}); it has {few(list(state))}"
    )
