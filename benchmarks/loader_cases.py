"""The loaders that `loader` compares: each makes random resized crops with flips, uint8, of the same JPEGs.

A function here builds a loader, and returns one that runs an epoch of it and returns the number of its crops.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fastlabel.dataset.beton import Beton
from fastlabel.images import ffcv_api as ffcv  # repairs what ffcv would do to this process: before all else of it
from fastlabel.images.loader import ImageLoader
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.views import ViewPolicy

from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder  # isort: skip
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage  # isort: skip

WORKERS = 2
Case = Callable[[], int]


def our_views(beton: Path, size: int, batch_size: int, epoch_of: int, views: int) -> Case:
    """ImageLoader with ``views`` views of each decoded image; a batch has ``batch_size`` crops."""
    loader = ImageLoader(beton, ViewPolicy.random_resized_crop(size, seed=0), max(1, batch_size // views), WORKERS)
    ids, random = _epoch(loader.beton.num_samples, epoch_of), np.random.default_rng(0)

    def run() -> int:
        with loader.epoch(random.permutation(ids), range(views)) as batches:
            return sum(len(batch.ids) * views for batch in batches)

    return run


def our_loader(beton: Path, size: int, batch_size: int, epoch_of: int) -> Case:
    """SoftLabelLoader, without labels."""
    file, policy = Beton.open(beton), ViewPolicy.random_resized_crop(size, seed=0)
    ids = _epoch(file.num_samples, epoch_of)
    loader = SoftLabelLoader(file, None, batch_size, policy=policy, indices=ids, num_workers=WORKERS)
    return lambda: sum(len(batch) for batch in loader)


def ffcv_loader(beton: Path, size: int, batch_size: int, epoch_of: int) -> Case:
    """FFCV's Loader with the pipeline of its ImageNet example, up to the device."""
    images = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    ids = _epoch(ffcv.Reader(str(beton)).num_samples, epoch_of)
    loader = ffcv.Loader(
        str(beton),
        batch_size=batch_size,
        num_workers=WORKERS,
        os_cache=True,
        order=ffcv.OrderOption.RANDOM,
        seed=0,
        indices=ids.astype(np.uint64),
        drop_last=False,
        pipelines={"image": images, "label": [ffcv.IntDecoder(), ToTensor(), Squeeze()]},
    )
    return lambda: sum(len(images) for images, _ in loader)


class Jpegs(Dataset[torch.Tensor]):
    """Crops of JPEG files, as torchvision's ImageNet example makes them, without its normalisation."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self._paths = paths
        self._crop = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            crop: torch.Tensor = self._crop(image.convert("RGB"))
        return crop


def torchvision_loader(jpegs: Path, size: int, batch_size: int, epoch_of: int) -> Case:
    """torch's DataLoader over JPEG files, its workers kept from one epoch to the next."""
    paths = sorted(jpegs.iterdir())
    data = Jpegs([paths[index] for index in _epoch(len(paths), epoch_of)], size)
    options: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True, "shuffle": True}
    loader = DataLoader(data, batch_size, **options)
    return lambda: sum(len(batch) for batch in loader)


def _epoch(num_samples: int, epoch_of: int) -> np.ndarray:
    """Sample ids of an epoch of about as many images: a short one would time how loaders begin and end."""
    return np.tile(np.arange(num_samples), max(1, epoch_of // num_samples))
