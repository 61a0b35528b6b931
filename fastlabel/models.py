"""Classifiers by name, with their normalisation, and teachers from checkpoints."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.convnet import ConvNet
from fastlabel.errors import InputError, TeacherError
from fastlabel.weights import read_checkpoint, weights_sha256

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CONVNET = re.compile(r"convnet-d(\d+)(?:-w(\d+))?")
_CONVNET_EXAMPLES = ["convnet-d3", "convnet-d4", "convnet-d3-w64"]


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
    """A network and its normalisation: uint8 images [B, 3, H, W] to logits [B, C], as `spec` says."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.net = build_model(spec.arch, spec.num_classes, spec.size)
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32).view(3, 1, 1))
        # FFCV gives NHWC pixels: in this memory format they reach the convolutions without a copy.
        self.to(memory_format=torch.channels_last)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits [B, C] of uint8 images."""
        logits: Tensor = self.net((images_B3HW.float() / 255 - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier in eval mode, with what a store records of it."""

    model: Classifier
    name: str
    sha256: str
    epoch: int


def build_model(arch: str, num_classes: int, size: int | None = None) -> nn.Module:
    """A network by name: "convnet-d3", "convnet-d3-w64", "resnet18" or "torchvision:resnet18".

    Its weights are random. `size` is the side of the square images in pixels. Raises InputError for an
    unknown name (with near matches) and for images that the network cannot take.
    """
    match = _CONVNET.fullmatch(arch)
    if match is None:
        return _torchvision_model(arch, num_classes, size)
    if size is None:
        raise InputError(f"{arch} needs the size of its images in pixels")
    return ConvNet(int(match[1]), int(match[2] or 128), num_classes, size)


def load_teacher(path: str | Path, device: str | torch.device = "cpu") -> Teacher:
    """The classifier of a checkpoint, in eval mode on `device`. Raises TeacherError if it cannot be used."""
    content = read_checkpoint(path)
    model = restore_classifier(path, content)
    run = Path(path).resolve()
    return Teacher(
        model=model.to(device).eval().requires_grad_(False),
        name=re.sub(r"[^A-Za-z0-9._-]+", "_", f"{run.parent.name}-{run.stem}"),
        sha256=weights_sha256(model.state_dict()),
        epoch=int(content["epoch"]),
    )


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


def _torchvision_model(arch: str, num_classes: int, size: int | None) -> nn.Module:
    from torchvision import models

    name = arch.removeprefix("torchvision:")
    names = models.list_models(module=models)
    if name not in names:
        close = difflib.get_close_matches(name, [*names, *_CONVNET_EXAMPLES], n=4, cutoff=0.5)
        raise InputError(
            f"unknown model {arch!r}: {'did you mean ' + ', '.join(close) if close else 'no name is near'}? "
            "Known are convnet-dDEPTH[-wWIDTH] and the classifiers of torchvision"
        )
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads would make forward() return a tuple while training.
        options = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and size is not None:
        options = {"image_size": size}
    try:
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _unfit(arch, size, error) from error
    if size is not None:
        _try_forward(arch, network, size)
    return network


def _try_forward(arch: str, network: nn.Module, size: int) -> None:
    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _unfit(arch, size, error) from error
    network.train(training)


def _unfit(arch: str, size: int | None, error: Exception) -> InputError:
    reason = (str(error).splitlines() or ["no reason given"])[0]
    return InputError(f"{arch} cannot take images of {size} pixels: {reason}")
