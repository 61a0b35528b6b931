"""Classifiers by name, with their normalisation, and teachers from checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.architectures import build_model
from fastlabel.errors import InputError, TeacherError
from fastlabel.weights import read_checkpoint, weights_sha256

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """How to build a classifier. `size` is in pixels; `mean` and `std` are of colours from 0 to 1."""

    arch: str
    num_classes: int
    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.num_classes < 2:
            raise InputError(f"a classifier needs 2 classes or more, not {self.num_classes}")
        if self.size < 1:
            raise InputError(f"an image size must be 1 pixel or more, not {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"mean and std need 3 values, std above 0, not {self.mean} and {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`."""
        return cls(**values)


class Classifier(nn.Module):
    """A network and its normalisation: images [B, 3, H, W] to logits [B, C], as `spec` says.

    The images are uint8, or floats from 0 to 255. `net` is a network that is there already; without it `spec` is
    built, with random weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, net: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.net = build_model(spec.arch, spec.num_classes, spec.size) if net is None else net
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32).view(3, 1, 1))
        # FFCV gives NHWC pixels: in this memory format they reach the convolutions without a copy.
        self.to(memory_format=torch.channels_last)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits [B, C] of images of 0 to 255."""
        logits: Tensor = self.net(self.normalise(images_B3HW))
        return logits

    def normalise(self, images_B3HW: Tensor) -> Tensor:
        """Images of 0 to 255 as the network takes them, float32."""
        return (images_B3HW.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier in eval mode, with what a store records of it.

    Attributes:
        model: images [B, 3, H, W] of 0 to 255 to logits; its `spec` says of which size, and how many logits.
        sha256: of the weights, normalisation included.
        epoch: of a checkpoint of train-teacher; else None.
        precision, tf32: how it runs (`fastlabel.precision`).
        categories: the names of its classes, where its weights bring them.
        class_map: for each class of the dataset the teacher's own; None where both are the same.
        keeps_classes: labels are over all of the teacher's own classes, not over those of the dataset.
        fixed_batch: the only batch size that it takes, if there is but one.
        ensemble: how the logits of `members` become one teacher's; None for a single network.
    """

    model: Classifier
    name: str
    sha256: str
    epoch: int | None
    precision: str = "fp32"
    tf32: bool = False
    categories: tuple[str, ...] = ()
    class_map: tuple[int, ...] | None = None
    keeps_classes: bool = False
    fixed_batch: int | None = None
    ensemble: str | None = None
    members: tuple[Teacher, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes of its labels."""
        if self.class_map is None or self.keeps_classes:
            return self.model.spec.num_classes
        return len(self.class_map)


def load_teacher(path: str | Path, device: str | torch.device = "cpu") -> Teacher:
    """The classifier of a checkpoint, in eval mode on `device`. Raises TeacherError if it cannot be used."""
    teacher = teacher_of_checkpoint(path, read_checkpoint(path))
    return replace(teacher, model=teacher.model.to(device))


def teacher_of_checkpoint(path: str | Path, content: Mapping[str, Any], size: int | None = None) -> Teacher:
    """The teacher of a checkpoint that was read, for images of its own size or of `size` pixels."""
    if size is not None:
        content = {**content, "spec": {**content["spec"], "size": size}}
    model = restore_classifier(path, content)
    run = Path(path).resolve()
    return Teacher(
        model=model.eval().requires_grad_(False),
        name=plain_name(f"{run.parent.name}-{run.stem}"),
        sha256=weights_sha256(model.state_dict()),
        epoch=int(content["epoch"]),
    )


def plain_name(text: str) -> str:
    """A teacher's name of letters that do no harm in a path or a terminal."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)


def pick_device(name: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}: give auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"the device {name} is not supported: give auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here: give the device cpu")
    return device


def restore_classifier(path: str | Path, content: Mapping[str, Any]) -> Classifier:
    """The classifier that a checkpoint describes, with its weights. TeacherError if they do not fit."""
    try:
        # A build draws random weights that are thrown away: the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]):
            model = Classifier(ModelSpec.from_dict(content["spec"]))
        model.load_state_dict(content["state"])
    except (InputError, RuntimeError, TypeError) as error:
        lines = str(error).splitlines()
        raise TeacherError(f"{path} does not hold the model that it describes: {' '.join(lines[:2])}") from error
    return model
