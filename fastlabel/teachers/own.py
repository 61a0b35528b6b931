"""A teacher of one's own: any module of PyTorch that takes normalised images and gives logits."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastlabel.digests import canonical_json
from fastlabel.errors import InputError
from fastlabel.models.classifier import Classifier, ModelSpec, check_size
from fastlabel.system.arguments import boolean, integer_vector, one_of
from fastlabel.teachers.module_checks import check_classifier
from fastlabel.teachers.precision import check_precision
from fastlabel.teachers.spec import check_colours
from fastlabel.teachers.teacher import OWN, Teacher, frozen_teacher

Colours = float | Sequence[float]


def teacher(
    module: nn.Module,
    *,
    mean: Colours | None = None,
    std: Colours | None = None,
    size: int | None = None,
    name: str | None = None,
    categories: Sequence[str] = (),
    class_map: Sequence[int] | None = None,
    keep_classes: bool = False,
    precision: str = "fp32",
    tf32: bool = False,
    forward: str = "eager",
) -> Teacher:
    """A module as a teacher, for `cache_labels(teachers=[...])`, `verify_store` and `repair_store`.

    The module is copied: it stays as it is, and what happens to it later changes no label. It runs on some random
    images first, to see that it is a teacher.

    Args:
        module: normalised images float32 [B, 3, S, S] to logits [B, C], in eval mode.
        mean, std: of colours from 0 to 1, one number or three; images reach the module as (colours - mean) / std.
        size: side S in pixels of the images that it takes; crops of another size are resized.
        name: for people; default the name of the module's class.
        categories: names of its C classes, if they are known: they are compared with those of the dataset.
        class_map: the module's class of each class of the dataset, in order; default both have the same.
        keep_classes: label over all C classes of the module.
        precision, tf32, forward: as of `TeacherSpec`.

    Raises:
        InputError: an argument cannot be used, or the module is in training mode.
        TeacherError: it gives no logits [B, C], others when it runs again, or an image's logits depend on the images
            beside it.
    """
    net, spec = checked_module(module, mean, std, size)
    called = type(net).__name__ if name is None else name
    one_of("name", called, str, "text")
    if not called.strip():
        raise InputError(f"name is {called!r}: give the teacher a name, or leave it out")
    boolean("keep_classes", keep_classes)
    check_precision(precision, boolean("tf32", tf32), "cuda", forward)
    options: dict[str, Any] = {"precision": precision, "tf32": tf32, "forward": forward, "keeps_classes": keep_classes}
    return frozen_teacher(
        called,
        spec,
        net,
        categories=category_names(categories, spec.num_classes),
        class_map=None if class_map is None else _columns(class_map, spec.num_classes),
        extra_state=_hidden_buffers(net) | {"attributes of modules": _attributes(net)},
        **options,
    )


def checked_module(
    module: nn.Module, mean: Colours | None, std: Colours | None, size: int | None
) -> tuple[nn.Module, ModelSpec]:
    """A copy of a module that can be a teacher, and what it is. Errors as of `teacher`."""
    one_of("module", module, nn.Module, "a torch.nn.Module; files and names need no fastlabel.teacher")
    if isinstance(module, Classifier):
        raise InputError("this module is fastlabel's own Classifier, which normalises by itself: give its net")
    module = _unwrapped(module)
    if mean is None or std is None:
        raise InputError(
            "mean or std is missing: say how images are normalised before the module (ImageNet's are "
            "0.485,0.456,0.406 and 0.229,0.224,0.225; 0 and 1 leave colours from 0 to 1)"
        )
    if size is None:
        raise InputError("size is missing: say the side in pixels of the images that the module takes")
    check_size(size)
    try:
        net = copy.deepcopy(module)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{type(module).__name__} cannot be copied by copy.deepcopy: {reason}") from error
    kind = f"{OWN}{_place(type(module))}"[:200]
    # Two classes stand for any number, until the module has run.
    spec = ModelSpec(kind, 2, size, check_colours("mean", mean), check_colours("std", std))
    num_classes = check_classifier(net, spec)
    return net.requires_grad_(False), ModelSpec(kind, num_classes, size, spec.mean, spec.std)


def category_names(categories: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Names of all classes, or none. InputError for anything else."""
    one_of("categories", None if isinstance(categories, str) else categories, Sequence, "a list of class names")
    for category in categories:
        one_of("a category", category, str, "the name of a class")
    if len(categories) not in (0, num_classes):
        raise InputError(f"{len(categories)} categories for {num_classes} classes: give a name for each, or none")
    twice = [category for category, count in Counter(categories).items() if count > 1]
    if twice:
        raise InputError(f"categories name {twice[0][:60]!r} more than once: give each class its own name")
    return tuple(categories)


def _unwrapped(module: nn.Module) -> nn.Module:
    """Without what torch.compile and data parallelism put around a module."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _columns(class_map: Sequence[int], num_classes: int) -> tuple[int, ...]:
    columns: list[int] = integer_vector("class_map", class_map).tolist()
    if len(columns) < 2 or len(set(columns)) != len(columns) or min(columns) < 0 or max(columns) >= num_classes:
        raise InputError(
            f"a class map is a list of two or more different classes of the module, 0 to {num_classes - 1}, one for "
            f"each class of the dataset; not {str(columns)[:60]}"
        )
    return tuple(columns)


def _hidden_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state dict leaves out: they decide labels too, so the digest has them."""
    kept = set(net.state_dict())
    return {f"buffer.{name}": value for name, value in net.named_buffers() if name not in kept}


def _attributes(net: nn.Module) -> Tensor:
    """What else decides labels, as uint8 for the digest: each part's class, and its attributes that are plain values.

    A scale, an activation, a stride: two teachers with the same weights may differ in nothing else. The code of a
    class is not among it.
    """
    ours = vars(nn.Module()).keys()
    parts = {
        name: [_place(type(part)), {key: _plain(value) for key, value in vars(part).items() if key not in ours}]
        for name, part in net.named_modules()
    }
    return torch.frombuffer(bytearray(canonical_json(parts).encode()), dtype=torch.uint8)


def _plain(value: Any) -> Any:
    """As JSON; of a function its name, and of any other object its class: its address is not the same again."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return sorted(([repr(_plain(key)), _plain(each)] for key, each in value.items()), key=repr)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return [str(value.dtype), _plain(value.tolist())]
    return _place(value if hasattr(value, "__qualname__") else type(value))


def _place(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
