"""Whether a module can be a teacher: seen by what it gives for some random images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.classifier import ModelSpec
from fastlabel.teachers.labelling_network import are_probabilities
from fastlabel.teachers.precision import full_precision

TRIED = 4  # images in a batch
TOLERANCE = 1e-3  # of the largest logit: what rounding does stays far below


@torch.no_grad()
def check_classifier(net: nn.Module, spec: ModelSpec) -> int:
    """The number of classes of a module that is a teacher.

    Args:
        net: takes normalised images float32 [B, 3, S, S]; it is run four times.
        spec: the size and the normalisation.

    Raises:
        InputError: it is in training mode. TeacherError: it is no classifier that repeats itself, image by image.
    """
    _check_mode(net)
    name = type(net).__name__
    device = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))
    images, others = (_random_images(spec, seed).to(device) for seed in (0, 1))
    beside = others.clone()
    beside[2] = images[0]  # at another place, among other images
    with full_precision(device.type), torch.random.fork_rng(devices=[]):
        first = _logits(net, images)  # what a module keeps from its first run is there from now on
        before = {key: value.clone() for key, value in net.named_buffers()}
        again, mixed, fewer = _logits(net, images), _logits(net, beside), _logits(net, images[:1])
    for key, value in net.named_buffers():
        if key not in before or not torch.equal(value, before[key]):
            raise TeacherError(f"{name} changes its buffer {key} when it runs: a teacher must stay as it is")
    if not first.isfinite().all():
        raise TeacherError(f"{name} gives NaN or infinite logits for images of random colours: are its weights right?")
    if _differ(first, again):
        raise TeacherError(f"{name} gives other logits for the same images again: a teacher must repeat itself")
    if _differ(first[0], mixed[2]) or _differ(first[:1], fewer):
        raise TeacherError(
            f"the logits that {name} gives for an image depend on the other images of the batch, as with batch norm "
            "that has no running statistics: a teacher must look at each image by itself"
        )
    if are_probabilities(first):
        raise TeacherError(
            f"{name} gives probabilities, from 0 to 1 and of sum 1, not logits: leave out its last softmax"
        )
    return int(first.shape[1])


def _check_mode(net: nn.Module) -> None:
    training = [name for name, module in net.named_modules() if module.training]
    if training:
        where = "" if training[0] == "" else f", in its part {training[0]}"
        raise InputError(f"{type(net).__name__} is in training mode{where}: call eval() on it first")


def _random_images(spec: ModelSpec, seed: int) -> Tensor:
    colours = torch.rand((TRIED, 3, spec.size, spec.size), generator=torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return ((colours - mean) / std).contiguous(memory_format=torch.channels_last)


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    """Logits of a batch. TeacherError where there are none."""
    name, shape = type(net).__name__, list(images.shape)
    try:
        logits = net(images)
    except Exception as error:  # a module may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TeacherError(f"{name} cannot take normalised images, float32 {shape}: {reason}") from error
    wanted = f"expected one tensor of logits, floats [{len(images)}, C]"
    if not isinstance(logits, Tensor):
        hint = ": wrap it so that it gives its .logits" if isinstance(getattr(logits, "logits", None), Tensor) else ""
        raise TeacherError(f"{name} gives {type(logits).__name__}, {wanted}{hint}")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2 or not logits.is_floating_point():
        raise TeacherError(f"{name} gives {logits.dtype} {list(logits.shape)} for {len(images)} images, {wanted}")
    return logits.float()


def _differ(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return True
    scale = max(1e-6, float(one.abs().max()))
    return not bool(((one - other).abs() <= TOLERANCE * scale).all())
