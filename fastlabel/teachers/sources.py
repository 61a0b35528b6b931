"""From the name or path of a teacher to the loaded network. docs/teachers.md says what each kind brings."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, ModelSpec
from fastlabel.models.weights import checked, is_checkpoint, read_sidecar, read_weights, weights_sha256
from fastlabel.teachers.exported import SUFFIX, load_program
from fastlabel.teachers.pretrained import Network, timm_network, timm_spec, torchvision_colours, torchvision_network
from fastlabel.teachers.state_dicts import check_colours, fit_network, state_dict_of, vit_size
from fastlabel.teachers.teacher import Teacher, plain_name, teacher_of_checkpoint

_WEIGHTS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Source:
    """Where a teacher's weights are, and what the caller says of them; None leaves it to the source."""

    location: str | os.PathLike[str]
    arch: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    trust_program: bool = False

    def colours(self, mean: object, std: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and std to use, where the source itself says these."""
        own = {"mean": mean if self.mean is None else self.mean, "std": std if self.std is None else self.std}
        return check_colours("mean", own["mean"]), check_colours("std", own["std"])


def load_source(source: Source, device: torch.device, size: int | None) -> Teacher:
    """The teacher of a source, in eval mode on a device; `size` in pixels is for one that says no size.

    Raises InputError for a name or option that cannot be used, TeacherError for weights that cannot be loaded.
    """
    location = source.location
    kind, _, rest = location.partition(":") if isinstance(location, str) else ("", "", "")
    if kind not in ("torchvision", "timm"):
        return _file(source, Path(location), device, size)
    name, _, weights = rest.partition("@")
    if kind == "torchvision" and not weights:
        raise InputError(f"{location} does not say which weights: give torchvision:{name}@DEFAULT, or @ and a file")
    if weights and (kind == "timm" or not _WEIGHTS_NAME.fullmatch(weights)):
        arch = name if kind == "torchvision" else f"timm:{name}"
        _check_arch(source, arch)
        return _file(replace(source, arch=arch), Path(weights), device, size)
    network = (
        torchvision_network(name, weights, source.size) if kind == "torchvision" else timm_network(name, source.size)
    )
    _check_arch(source, network.spec.arch)
    return _teacher(source, network, plain_name(str(location).replace("@", "-").replace(":", "-")), device)


def _file(source: Source, path: Path, device: torch.device, size: int | None) -> Teacher:
    if path.suffix == SUFFIX:
        return _program(source, path, device, size)
    content = read_weights(path)
    if not is_checkpoint(content):
        return _state_dict(source, path, content, device, size)
    teacher = teacher_of_checkpoint(path, checked(path, content), source.size)
    spec = teacher.model.spec
    _check_arch(source, spec.arch)
    if source.colours(spec.mean, spec.std) != (spec.mean, spec.std):
        raise InputError(f"{path} says its mean and std itself ({spec.mean}, {spec.std}): leave --mean and --std away")
    return replace(teacher, model=teacher.model.to(device))


def _state_dict(source: Source, path: Path, content: object, device: torch.device, size: int | None) -> Teacher:
    beside = read_sidecar(path)
    arch = source.arch or beside.get("arch")
    state = state_dict_of(path, content)
    if not arch:
        raise InputError(f"{path} is a bare state dict: say its network with --arch, such as resnet50 or timm:NAME")
    arch = arch.removeprefix("torchvision:")
    own: Any = None
    if not arch.startswith("timm:"):
        own = torchvision_colours(arch)
    else:
        usual = timm_spec(arch.removeprefix("timm:"), 2)
        arch, own = usual.arch, (usual.mean, usual.std)
    side = source.size or beside.get("size") or vit_size(arch, state) or size
    if side is None:
        raise InputError(f"{path} does not say what size of images it takes: give --teacher-size, or --size for all")
    net, num_classes = fit_network(path, arch, state, side)
    given = [beside.get(what) if getattr(source, what) is None else getattr(source, what) for what in ("mean", "std")]
    if own is None and None in given:
        raise InputError(f"{path}: torchvision's weights of {arch} are not all normalised alike: give --mean and --std")
    own = own or given
    mean, std = source.colours(beside.get("mean", own[0]), beside.get("std", own[1]))
    network = Network(ModelSpec(arch, num_classes, side, mean, std), net, tuple(beside.get("categories", ())))
    return _teacher(source, network, _file_name(path), device)


def _program(source: Source, path: Path, device: torch.device, size: int | None) -> Teacher:
    beside = read_sidecar(path) if path.is_file() else {}
    mean, std = (
        beside.get(name) if getattr(source, name) is None else getattr(source, name) for name in ("mean", "std")
    )
    if (mean is None or std is None) and path.is_file():
        usual = " and ".join(",".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        raise InputError(
            f"{path} does not say how its images are normalised: give --mean and --std (ImageNet's are {usual}), "
            f"or write both into {path}.json"
        )
    network = load_program(
        path, check_colours("mean", mean or 0), check_colours("std", std or 1), device, source.trust_program
    )
    _check_arch(source, network.spec.arch)
    if network.any_size:
        side = source.size or beside.get("size") or size
        if side is None:
            raise InputError(f"{path} takes images of any size: give --teacher-size, or --size for all")
        network = replace(network, spec=replace(network.spec, size=side))
    elif source.size not in (None, network.spec.size):
        raise InputError(f"{path} was exported for images of {network.spec.size} pixels, not {source.size}")
    return _teacher(source, replace(network, categories=tuple(beside.get("categories", ()))), _file_name(path), device)


def _teacher(source: Source, network: Network, name: str, device: torch.device) -> Teacher:
    spec = network.spec
    mean, std = source.colours(spec.mean, spec.std)
    if network.categories and len(network.categories) != spec.num_classes:
        raise TeacherError(f"teacher {name} has {spec.num_classes} classes and {len(network.categories)} categories")
    model = Classifier(replace(spec, mean=mean, std=std), network.net).eval().requires_grad_(False)
    return Teacher(
        model=model.to(device),
        name=name,
        sha256=weights_sha256({**model.state_dict(), **network.extra_state}),
        epoch=None,
        categories=network.categories,
        fixed_batch=network.fixed_batch,
    )


def _check_arch(source: Source, arch: str) -> None:
    if source.arch is not None and _bare(source.arch) != _bare(arch):
        raise InputError(f"{source.location} is {arch} by itself, not {source.arch}: leave --arch away")


def _bare(arch: str) -> str:
    # timm:NAME.TAG: the tag says which weights.
    return arch.removeprefix("torchvision:").partition(".")[0]


def _file_name(path: Path) -> str:
    return plain_name(path.name.removesuffix(path.suffix))
