"""Small sets of images that stay on the device: normalised (or whitened) once, trained on for thousands of epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.tensor_source import NETWORK, exact_path, read_exact
from fastlabel.errors import DatasetError, InputError
from fastlabel.images.loader import ImageLoader
from fastlabel.models.architectures import WHITENED
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.models.whitening import Whitening
from fastlabel.views import ViewPolicy

DECODE_BATCH = 512


@dataclass(frozen=True, eq=False)
class ResidentImages:
    """Images as a network's first convolution takes them.

    Attributes:
        images: float32 [N, 3, S, S] on the device.
        targets: int64 [N], hard labels, on the device.
        ids: int64 [N], their indices in the dataset file, ascending.
    """

    images: Tensor
    targets: Tensor
    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: npt.NDArray[np.int64]) -> ResidentImages:
        """Those of some sample ids, in their order."""
        rows = np.searchsorted(self.ids, ids)
        if len(ids) and (rows.max() >= len(self.ids) or bool((self.ids[rows] != ids).any())):
            raise InputError("some of these samples are not among the images in memory")
        index = torch.from_numpy(rows).to(self.images.device)
        return ResidentImages(self.images[index], self.targets[index], ids)


def decode_pixels(beton: Beton, ids: npt.NDArray[np.int64], size: int, num_workers: int = 0) -> Tensor:
    """The whole image of each sample, uint8 [N, 3, S, S] in channels-last memory, resized where it has another size."""
    loader = ImageLoader(beton, ViewPolicy.identity(size), DECODE_BATCH, num_workers)
    pixels = torch.empty((len(ids), size, size, 3), dtype=torch.uint8)
    start = 0
    with loader.epoch(ids, [0]) as epoch:
        for batch in epoch:
            pixels[start : start + len(batch.ids)] = batch.images[:, 0]
            start += len(batch.ids)
    return pixels.permute(0, 3, 1, 2)


@torch.no_grad()
def preprocess(model: Classifier, pixels_N3SS: Tensor, device: torch.device) -> Tensor:
    """What the model does before its network (normalise, whiten), float32 [N, 3, S, S] on the device."""
    whiten = whitening_of(model) or nn.Identity()
    images = torch.empty(tuple(pixels_N3SS.shape), device=device)
    for part, pixels in zip(images.split(DECODE_BATCH), pixels_N3SS.split(DECODE_BATCH), strict=True):
        part.copy_(whiten(model.normalise(pixels.to(device))))
    return images


def whitening_of(model: Classifier) -> Whitening | None:
    """The model's whitening layer, if it has one."""
    first = model.net[0] if isinstance(model.net, nn.Sequential) and len(model.net) else None
    return first if isinstance(first, Whitening) else None


def trunk(model: Classifier) -> nn.Module:
    """The network that takes preprocessed images."""
    if whitening_of(model) is None:
        return model.net
    _, network = model.net.children()
    return network


def load_resident(
    beton: Beton, ids: npt.NDArray[np.int64], model: Classifier, device: torch.device, num_workers: int = 0
) -> ResidentImages:
    """Decode samples and preprocess them as the model does."""
    ids = np.unique(ids)
    exact = read_exact(Path(beton.path))
    pixels = decode_pixels(beton, ids, model.spec.size, num_workers)
    images = preprocess(model, pixels, device) if exact is None else _exact(beton, ids, pixels, exact, model, device)
    return ResidentImages(images, torch.from_numpy(beton.targets[ids]).to(device), ids)


def _exact(
    beton: Beton,
    ids: npt.NDArray[np.int64],
    pixels_N3SS: Tensor,
    exact: tuple[npt.NDArray[np.float32], str],
    model: Classifier,
    device: torch.device,
) -> Tensor:
    """The exact values of images that are no multiples of 1 / 255, as the network takes them.

    InputError where the network takes images of another size; DatasetError where they are of another file.
    """
    values, space = exact
    shape = (beton.num_samples, 3, model.spec.size, model.spec.size)
    if values.shape != shape:
        raise InputError(
            f"{exact_path(Path(beton.path))} has images {list(values.shape)}, the expert takes {list(shape)}: exact "
            "values are not resized"
        )
    chosen = torch.from_numpy(values[ids])
    if space == NETWORK:
        return chosen.to(device)
    levels = (chosen * 255).clamp(0, 255)
    if float((levels - pixels_N3SS.float()).abs().max()) > 0.51:
        raise DatasetError(f"{exact_path(Path(beton.path))} has other images than {beton.path}: write them again")
    return preprocess(model, chosen * 255, device)


def fitted_spec(arch: str, num_classes: int, pixels_N3SS: Tensor) -> ModelSpec:
    """A spec for these images: colours normalised by their own mean and deviation; as they are before a whitening."""
    size = pixels_N3SS.shape[2]
    if arch.startswith(WHITENED):
        return ModelSpec(arch, num_classes, size, (0.0,) * 3, (1.0,) * 3)
    values = pixels_N3SS.permute(1, 0, 2, 3).flatten(1)
    counts = torch.stack([torch.bincount(colour, minlength=256) for colour in values.int()]).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    deviation = (shares @ levels**2 - mean**2).sqrt().clamp(min=1 / 255)
    return ModelSpec(arch, num_classes, size, tuple(mean.tolist()), tuple(deviation.tolist()))
