"""Pretrained classifiers by name: torchvision's out of PyTorch's checkpoint folder or the network, and timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.architectures import import_timm, near_names
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from fastlabel.models.weights import file_sha256, hash_in_name, read_weights
from fastlabel.teachers.spec import TeacherSpec, resolve
from fastlabel.teachers.state_dicts import fit_network, state_dict_of
from fastlabel.teachers.teacher import Teacher, frozen_teacher

# They change ImageNet's normalisation to this one inside of their forward pass, which comes to the same.
_CENTRED = {"googlenet": 0.5, "inception_v3": 0.5}


def torchvision_teacher(given: TeacherSpec, name: str, weights: str) -> Teacher:
    """`torchvision:NAME@WEIGHTS`, such as resnet50 and IMAGENET1K_V2 or DEFAULT.

    Its size, normalisation and categories are those of the weights' own transforms, unless others are given. Raises
    InputError for an unknown name (with near matches), TeacherError for weights that are neither here nor within reach.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"unknown model torchvision:{name}: {near_names(name, known)}")
    choices = models.get_model_weights(name)
    if weights != "DEFAULT" and weights not in choices.__members__:
        names = ", ".join([*choices.__members__, "DEFAULT"])
        raise InputError(f"torchvision:{name} has no weights {weights!r}: give one of {names}, or the path of a file")
    chosen = choices.DEFAULT if weights == "DEFAULT" else choices[weights]
    preset, path = chosen.transforms(), checkpoint_file(chosen.url, f"torchvision:{name}@{weights}")
    own = {"mean": preset.mean, "std": preset.std, "size": int(preset.crop_size[0])}
    found = resolve(given, {}, own | _centred(name))
    net, num_classes = fit_network(path, name, state_dict_of(path, read_weights(path)), found["size"])
    categories = tuple(chosen.meta["categories"])
    return frozen_teacher(_name(given), ModelSpec(name, num_classes, **found), net, categories=categories)


def torchvision_colours(name: str) -> dict[str, Any]:
    """The mean and std of all weights that torchvision has of a network; nothing where these differ."""
    from torchvision import models

    if name not in models.list_models(module=models):
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    presets = [weights.transforms() for weights in models.get_model_weights(name)]
    found = {(tuple(preset.mean), tuple(preset.std)) for preset in presets}
    return _centred(name) or (dict(zip(("mean", "std"), found.pop(), strict=True)) if len(found) == 1 else {})


def _centred(name: str) -> dict[str, Any]:
    centre = _CENTRED.get(name)
    return {"mean": (centre,) * 3, "std": (centre,) * 3} if centre else {}


def _name(given: TeacherSpec) -> str:
    return str(given.source).replace("@", "-").replace(":", "-")


def checkpoint_file(url: str, who: str) -> Path:
    """The file of a URL in the checkpoint folder of torch.hub, fetched if it is not there.

    Its SHA-256 must begin as its name says. Raises TeacherError, which says where to put the file by hand.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    start = hash_in_name(path.name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=start, progress=False)
        except (OSError, RuntimeError) as error:
            raise TeacherError(
                f"{who}: its weights are not here and cannot be fetched ({error}); fetch {url} elsewhere and put it at "
                f"{path}"
            ) from error
    found = file_sha256(path)
    if start and not found.startswith(start):
        raise TeacherError(
            f"{path} is damaged or another file: its SHA-256 begins {found[: len(start)]}, its name says {start}; "
            f"remove it, or put the file of {url} there"
        )
    return path


def timm_teacher(given: TeacherSpec, name: str) -> Teacher:
    """`timm:NAME`, with the pretrained weights that timm fetches or has kept.

    Its size and normalisation are those of its configuration, unless others are given. Raises InputError for an unknown
    name or where timm is not installed, TeacherError for weights that are neither here nor within reach.
    """
    timm = import_timm()
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        raise InputError(f"unknown model timm:{name}: {near_names(plain, timm.list_models())}")
    if not timm.is_model_pretrained(name):
        raise InputError(
            f"timm:{name} has no such pretrained weights: {near_names(name, timm.list_models(pretrained=True))}"
        )
    config = timm.get_pretrained_cfg(name)
    found = resolve(given, {}, timm_settings(name))
    side = found["size"]
    options = {"img_size": side} if config.fixed_input_size and side != config.input_size[1] else {}
    try:
        with torch.random.fork_rng(devices=[]):
            net: nn.Module = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # timm and the hub that it asks raise many kinds
        where = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise TeacherError(
            f"timm:{name}: its weights are not here and cannot be fetched or read "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); fetch model.safetensors of {where} "
            f"elsewhere and give timm:{name}@FILE"
        ) from error
    spec = ModelSpec(f"timm:{plain}", int(config.num_classes), **found)
    return frozen_teacher(_name(given), spec, net, categories=timm_categories(spec.num_classes, tag))


def timm_settings(name: str) -> dict[str, Any]:
    """The mean, std and size in pixels of timm's configuration of a network.

    A tag in the name (`resnet18.a1_in1k`) says which weights, hence which normalisation; the network is the same.
    """
    timm, plain = import_timm(), name.partition(".")[0]
    if not timm.is_model(plain):
        raise InputError(f"unknown model timm:{name}: {near_names(plain, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"timm:{name}: {error}") from error
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config is None else (config.mean, config.std)
    return {"mean": mean, "std": std, "size": 224 if config is None else int(config.input_size[1])}


def timm_categories(num_classes: int, tag: str) -> tuple[str, ...]:
    """The WordNet ids of ImageNet's classes, by which its folders are named, for weights of those classes."""
    from timm.data import ImageNetInfo

    if num_classes != 1000 or "in1k" not in tag:
        return ()
    info: Any = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names())
