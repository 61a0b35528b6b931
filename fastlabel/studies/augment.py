"""Differentiable Siamese augmentation (DSA: Zhao & Bilen 2021, arXiv 2102.08259) of images in memory.

Written in torch, since it works on normalised or whitened images: the colour operations of image libraries clamp to
0 to 1. Random numbers are drawn on the CPU, so that every device trains on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fastlabel.errors import InputError

STRATEGY = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True)
class SiameseAugmentation:
    """One kind of `strategy`, at random, for each batch; each image of it with random strength of its own.

    The paper's parameters. `siamese` gives all images of a batch the same strength, as it does for real and synthetic
    batches; a student's training does not.

    Attributes:
        flip: probability of a mirrored image.
        scale: each axis is seen smaller or larger by a factor of up to this.
        rotate: degrees to either side.
        crop: shift to any side, as a share of the image's; zeros come in (the mean colour).
        cutout: side of the square that becomes zero, as a share of the image's.
        brightness: width of the range of what is added.
        saturation: largest factor of the distance from the pixel's mean.
        contrast: smallest factor of the distance from the image's mean; the largest is 1 more.
    """

    strategy: tuple[str, ...] = STRATEGY
    siamese: bool = False
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0
    crop: float = 0.125
    cutout: float = 0.5
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5

    def __post_init__(self) -> None:
        unknown = set(self.strategy) - set(STRATEGY)
        if unknown:
            raise InputError(f"unknown augmentation {', '.join(sorted(unknown))}; known are {', '.join(STRATEGY)}")

    @classmethod
    def from_name(cls, name: str) -> SiameseAugmentation:
        """ "none", "dsa" (all of it), or some of it, such as "crop+flip"."""
        known = {"none": (), "dsa": STRATEGY}
        return cls(known[name] if name in known else tuple(name.split("+")))

    def __call__(self, images_B3HW: Tensor, random: Generator) -> Tensor:
        """Augmented images, of the same shape and device; differentiable in the images."""
        if not self.strategy or not len(images_B3HW):
            return images_B3HW
        kind = self.strategy[int(torch.randint(len(self.strategy), (), generator=random))]
        augment: Callable[[Tensor, Generator], Tensor] = getattr(self, f"_{kind}")
        return augment(images_B3HW, random)

    def _uniform(self, images: Tensor, random: Generator, low: float, high: float) -> Tensor:
        """A number of its own for each image, shape [B, 1, 1, 1]."""
        count = 1 if self.siamese else len(images)
        numbers = low + (high - low) * torch.rand(count, generator=random)
        return numbers.to(images).view(-1, 1, 1, 1).expand(len(images), 1, 1, 1)

    def _integers(self, images: Tensor, random: Generator, low: int, high: int) -> Tensor:
        """The same for integers from low to high, both possible; int64 [B, 1, 1, 1]."""
        count = 1 if self.siamese else len(images)
        numbers = torch.randint(low, high + 1, (count,), generator=random)
        return numbers.to(images.device).view(-1, 1, 1, 1).expand(len(images), 1, 1, 1)

    def _color(self, images: Tensor, random: Generator) -> Tensor:
        images = images + self._uniform(images, random, -0.5, 0.5) * self.brightness
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * self._uniform(images, random, 0.0, self.saturation)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return mean + (images - mean) * self._uniform(images, random, self.contrast, 1 + self.contrast)

    def _crop(self, images: Tensor, random: Generator) -> Tensor:
        height, width = images.shape[2:]
        down, right = math.floor(height * self.crop + 0.5), math.floor(width * self.crop + 0.5)
        y = _index(height, images) + self._integers(images, random, -down, down) + down
        x = _index(width, images).transpose(2, 3) + self._integers(images, random, -right, right) + right
        padded = F.pad(images, (right, right, down, down))
        rows = padded.gather(2, y.expand(-1, 3, -1, padded.shape[3]))
        return rows.gather(3, x.expand(-1, 3, height, -1))

    def _cutout(self, images: Tensor, random: Generator) -> Tensor:
        height, width = images.shape[2:]
        inside = self._covered(images, random, height, _index(height, images))
        inside = inside & self._covered(images, random, width, _index(width, images).transpose(2, 3))
        return images.masked_fill(inside, 0)

    def _covered(self, images: Tensor, random: Generator, side: int, at: Tensor) -> Tensor:
        size = math.floor(side * self.cutout + 0.5)
        start = self._integers(images, random, 0, side - size % 2) - size // 2
        return (at >= start) & (at < start + size)

    def _flip(self, images: Tensor, random: Generator) -> Tensor:
        return torch.where(self._uniform(images, random, 0, 1) < self.flip, images.flip(3), images)

    def _scale(self, images: Tensor, random: Generator) -> Tensor:
        low, high = 1 / self.scale, self.scale
        x, y = (self._uniform(images, random, low, high).flatten() for _ in range(2))
        none = torch.zeros_like(x)
        return _warp(images, x, none, none, y)

    def _rotate(self, images: Tensor, random: Generator) -> Tensor:
        most = math.radians(self.rotate)
        angle = self._uniform(images, random, -most, most).flatten()
        return _warp(images, angle.cos(), -angle.sin(), angle.sin(), angle.cos())


def _index(side: int, images: Tensor) -> Tensor:
    """0 ... side - 1 for each image, down the rows: int64 [B, 1, side, 1]."""
    return torch.arange(side, device=images.device).view(1, 1, side, 1).expand(len(images), 1, side, 1)


def _warp(images: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    """Each image seen through its 2x2 map about the centre, bilinear, zero outside."""
    none = torch.zeros_like(xx)
    theta = torch.stack([xx, xy, none, yx, yy, none], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)
