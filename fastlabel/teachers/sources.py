"""From the name or path of a teacher to the loaded network. docs/teachers.md says what each kind brings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastlabel.errors import InputError
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from fastlabel.models.weights import checked, is_checkpoint, read_sidecar, read_weights
from fastlabel.teachers.exported import load_program
from fastlabel.teachers.pretrained import timm_settings, timm_teacher, torchvision_colours, torchvision_teacher
from fastlabel.teachers.spec import PROGRAM_SUFFIX, TeacherSpec, resolve
from fastlabel.teachers.state_dicts import fit_network, state_dict_of, vit_size
from fastlabel.teachers.teacher import Teacher, frozen_teacher, teacher_of_checkpoint

_WEIGHTS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


def load_source(spec: TeacherSpec, device: torch.device, views_size: int | None) -> Teacher:
    """The teacher of a source, in eval mode on a device.

    Args:
        views_size: side of the views in pixels, for a teacher of which nobody says the size.

    Raises:
        InputError: a name or option cannot be used. TeacherError: the weights cannot be loaded.
    """
    kind, _, rest = spec.source.partition(":") if isinstance(spec.source, str) else ("", "", "")
    name, _, weights = rest.partition("@")
    if kind not in ("torchvision", "timm"):
        teacher = _file(spec, Path(spec.source), device, views_size)
    elif kind == "torchvision" and not weights:
        raise InputError(f"{spec.source} does not say which weights: give torchvision:{name}@DEFAULT, or @ and a file")
    elif weights and (kind == "timm" or not _WEIGHTS_NAME.fullmatch(weights)):
        arch = name if kind == "torchvision" else f"timm:{name}"
        spec.check_arch(arch)
        teacher = _file(replace(spec, arch=arch), Path(weights), device, views_size)
    else:
        teacher = torchvision_teacher(spec, name, weights) if kind == "torchvision" else timm_teacher(spec, name)
        spec.check_arch(teacher.model.spec.arch)
    teacher.model.to(device)
    return teacher


def _file(spec: TeacherSpec, path: Path, device: torch.device, views_size: int | None) -> Teacher:
    if path.suffix == PROGRAM_SUFFIX:
        return _program(replace(spec, source=path), path, device, views_size)
    content = read_weights(path)
    return (_checkpoint if is_checkpoint(content) else _state_dict)(spec, path, content, views_size)


def _checkpoint(spec: TeacherSpec, path: Path, content: object, views_size: int | None) -> Teacher:
    teacher = teacher_of_checkpoint(path, checked(path, content), spec.size)
    own = teacher.model.spec
    spec.check_arch(own.arch)
    found = resolve(spec, {}, {"mean": own.mean, "std": own.std})
    if (found["mean"], found["std"]) != (own.mean, own.std):
        raise InputError(f"{path} says its mean and std itself ({own.mean}, {own.std}): omit --mean and --std")
    return teacher


def _state_dict(spec: TeacherSpec, path: Path, content: object, views_size: int | None) -> Teacher:
    beside, state = read_sidecar(path), state_dict_of(path, content)
    arch = spec.arch or beside.get("arch")
    if not arch:
        raise InputError(f"{path} is a bare state dict: say its network with --arch, such as resnet50 or timm:NAME")
    arch, own = _usual(arch.removeprefix("torchvision:"))
    found = resolve(spec, beside, own | {"size": vit_size(arch, state) or views_size})
    if found["size"] is None:
        raise InputError(f"{path} does not say what size of images it takes: give --teacher-size, or --size for all")
    if None in (found["mean"], found["std"]):
        raise InputError(f"{path}: torchvision's weights of {arch} are not all normalised alike: give --mean and --std")
    net, num_classes = fit_network(path, arch, state, found["size"])
    model = ModelSpec(arch, num_classes, **found)
    return frozen_teacher(path.stem, model, net, categories=tuple(beside.get("categories", ())))


def _usual(arch: str) -> tuple[str, dict[str, Any]]:
    """The name of a network without the tag of some weights, and the mean and std that its weights usually have."""
    if arch.startswith("timm:"):
        settings = timm_settings(arch.removeprefix("timm:"))
        return f"timm:{arch.removeprefix('timm:').partition('.')[0]}", {**settings, "size": None}
    return arch, torchvision_colours(arch)


def _program(spec: TeacherSpec, path: Path, device: torch.device, views_size: int | None) -> Teacher:
    program = load_program(spec, device)
    beside = read_sidecar(path)
    found = resolve(spec, beside, {"size": program.size or views_size})
    if None in (found["mean"], found["std"]):
        usual = " and ".join(",".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        raise InputError(
            f"{path} does not say how its images are normalised: give --mean and --std (ImageNet's are {usual}), "
            f"or write both into {path}.json"
        )
    if found["size"] is None:
        raise InputError(f"{path} takes images of any size: give --teacher-size, or --size for all")
    if program.size not in (None, found["size"]):
        raise InputError(f"{path} was exported for images of {program.size} pixels, not {found['size']}")
    spec.check_arch(program.arch)
    return frozen_teacher(
        path.stem,
        ModelSpec(program.arch, program.num_classes, **found),
        program,
        categories=tuple(beside.get("categories", ())),
        fixed_batch=program.batch,
        extra_state=program.tensors,
    )
