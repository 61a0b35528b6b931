"""Networks by name, with random weights: our ConvNets, torchvision's classifiers, timm's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastlabel.errors import InputError
from fastlabel.models.convnet import ConvNet
from fastlabel.models.whitening import Whitening

WHITENED = "zca:"
_CONVNET = re.compile(r"convnet-d(\d+)(?:-w(\d+))?")
_CONVNET_EXAMPLES = ["convnet-d3", "convnet-d4", "convnet-d3-w64"]


def build_model(arch: str, num_classes: int, size: int | None = None, *, tried: bool = True) -> nn.Module:
    """A network by name: "convnet-d3", "convnet-d3-w64", "resnet18" (torchvision's) or "timm:resnet18".

    "zca:" before a name puts a `Whitening` in front of the network. Its weights are random. `size` is the side of
    the square images in pixels; a network of torchvision or timm is `tried` on one such image. Raises InputError for an
    unknown name (with near matches), for images that the network cannot take, and where timm is not installed.
    """
    if arch.startswith(WHITENED):
        if size is None:
            raise InputError(f"{arch} needs the size of its images in pixels")
        return nn.Sequential(Whitening(size), build_model(arch.removeprefix(WHITENED), num_classes, size, tried=tried))
    if arch.startswith("timm:"):
        return _timm_model(arch, num_classes, size, tried)
    match = _CONVNET.fullmatch(arch)
    if match is None:
        return _torchvision_model(arch, num_classes, size, tried)
    if size is None:
        raise InputError(f"{arch} needs the size of its images in pixels")
    return ConvNet(int(match[1]), int(match[2] or 128), num_classes, size)


def near_names(name: str, names: Iterable[str]) -> str:
    """ "did you mean a, b?", for the message about a name that is not known."""
    close = difflib.get_close_matches(name, list(names), n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else "no name is near"


def import_timm() -> Any:
    """The package timm. InputError says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"timm is not installed: pip install 'fastlabel[timm]' or pip install timm ({error})"
        ) from error
    return timm


def _torchvision_model(arch: str, num_classes: int, size: int | None, tried: bool) -> nn.Module:
    from torchvision import models

    name = arch.removeprefix("torchvision:")
    names = models.list_models(module=models)
    if name not in names:
        near = near_names(name, [*names, *_CONVNET_EXAMPLES])
        raise InputError(
            f"unknown model {arch!r}: {near} Known are convnet-dDEPTH[-wWIDTH], the classifiers of torchvision, "
            "and timm:NAME"
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
    if tried and size is not None:
        _try_forward(arch, network, size)
    return network


def _timm_model(arch: str, num_classes: int, size: int | None, tried: bool) -> nn.Module:
    timm, name = import_timm(), arch.removeprefix("timm:")
    if not timm.is_model(name):
        raise InputError(f"unknown model {arch!r}: {near_names(name.split('.')[0], timm.list_models())}")
    try:
        network: nn.Module = timm.create_model(name, num_classes=num_classes)
        config = getattr(network, "pretrained_cfg", {})
        if size is not None and config.get("fixed_input_size") and tuple(config["input_size"][1:]) != (size, size):
            network = timm.create_model(name, num_classes=num_classes, img_size=size)
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise _unfit(arch, size, error) from error
    if tried and size is not None:
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
