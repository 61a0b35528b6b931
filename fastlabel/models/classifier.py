"""Classifiers by name, with their normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.architectures import build_model
from fastlabel.models.state import misfit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIZE = 8192  # pixels; what is larger is a slip, and takes all memory


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
        if not isinstance(self.arch, str) or len(self.arch) > 200:
            raise InputError(f"a network is given by its name, not by {str(self.arch)[:60]!r}")
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise InputError(f"a classifier needs 2 classes or more, not {str(self.num_classes)[:60]}")
        check_size(self.size)
        colours = f"{str(self.mean)[:60]} and {str(self.std)[:60]}"
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, self.mean)) or not min(self.std) > 0:
            raise InputError(f"mean and std need 3 values, std above 0, not {colours}")
        if not (min(self.mean) >= 0 and max(*self.mean, *self.std) <= 1):
            raise InputError(
                f"mean and std are of colours from 0 to 1, not {colours}: divide what is meant for colours from 0 to "
                "255 by 255"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`."""
        return cls(**values)


def check_size(size: object) -> None:
    """InputError unless it is a side of images in pixels that a network may take."""
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
        raise InputError(f"an image size must be 1 to {MAX_SIZE} pixels, not {str(size)[:60]}")


class Classifier(nn.Module):
    """A network and its normalisation: images [B, 3, H, W] to logits [B, C], as `spec` says.

    The images are uint8, or floats from 0 to 255. `net` is a network that is there already; without it `spec` is
    built, with random weights. `categories` are the names of its classes, where they are known.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, net: nn.Module | None = None, categories: Sequence[str] = ()) -> None:
        super().__init__()
        self.spec, self.categories = spec, tuple(categories)
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


def restore_classifier(path: str | Path, content: Mapping[str, Any]) -> Classifier:
    """The classifier that a checkpoint describes, with its weights. TeacherError if they do not fit."""
    wrong = f"{path} does not hold the model that it describes"
    state = content["state"]
    try:
        spec = ModelSpec.from_dict(content["spec"])
        # A build draws random weights that are thrown away: the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                net = build_model(spec.arch, spec.num_classes, spec.size, tried=False)
                reason = misfit(state, Classifier(spec, net).state_dict())
            if reason is not None:
                raise TeacherError(f"{wrong}, {spec.arch} of {spec.size} pixels: of its keys {reason}")
            model = Classifier(spec, categories=content.get("categories", ()))
        model.load_state_dict(state)
    except (InputError, RuntimeError, TypeError, ValueError) as error:
        raise TeacherError(f"{wrong}: {' '.join(str(error).splitlines()[:2])}") from error
    if len(model.categories) not in (0, spec.num_classes):
        raise TeacherError(f"{wrong}: it has {spec.num_classes} classes and {len(model.categories)} categories")
    for name in ("mean", "std"):
        said, held = getattr(model, name).flatten().tolist(), torch.tensor(getattr(spec, name)).tolist()
        if said != held:
            raise TeacherError(f"{wrong}: its weights have the {name} {said}, its spec {held}")
    return model
