"""Classifiers by name, with their normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.architectures import build_model

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
