"""Images in arrays, as projects that distil datasets keep them: a source for write-dataset, and their exact values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.array_files import Arrays, read_arrays
from fastlabel.errors import DatasetError, InputError

PREFIX = "tensors:"
IMAGES = ("images", "image", "x", "data", "X", "img")
LABELS = ("labels", "label", "y", "targets", "target", "Y")
PIXELS, NETWORK = "pixels", "network"


def find_arrays(text: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The images and labels that `tensors:FILE` or `tensors:IMAGES,LABELS` names. InputError where there are none."""
    images, comma, labels = text.removeprefix(PREFIX).partition(",")
    first = read_arrays(Path(images))
    if comma:
        return _pick(images, first, IMAGES, 0, 1), _pick(labels, read_arrays(Path(labels)), LABELS, 0, 1)
    return _pick(images, first, IMAGES, 0, 2), _pick(images, first, LABELS, 1, 2)


def _pick(path: str, arrays: Arrays, names: tuple[str, ...], number: int, expected: int) -> NDArray[Any]:
    """The array of one of these names, or the one at that place of a list."""
    for name in names:
        if name in arrays:
            return arrays[name]
    by_place = [str(place) for place in range(len(arrays))]
    if len(arrays) == expected and (expected == 1 or list(arrays) == by_place):
        return list(arrays.values())[number]
    shown = ", ".join(map(repr, arrays))
    raise InputError(f"{path} has the arrays {shown}: expected one called {names[0]}; or give tensors:IMAGES,LABELS")


class TensorSource:
    """N images of one size, stored without loss where 8 bits hold them.

    Args:
        images: [N, 3, H, W] or [N, H, W, 3] (or of 1 colour), uint8, or floats of which 0 is black and 1 is white.
        targets: int [N].
        classes: names; empty for numbers.
        mean, std: of the colours that the images were normalised with; None for images that were not.
        network_input: the images are as a network takes them (whitened, say): what is written in 8 bits is for eyes.

    Attributes:
        exact: float32 [N, 3, H, W], the images where 8 bits do not hold them; None where they do.
        space: "pixels", of which 0 is black and 1 white, or "network".
        rounded, clipped: the most that 8 bits are off, in levels; the share of values outside of black and white.
    """

    write_mode = "raw"

    def __init__(
        self,
        images: NDArray[Any],
        targets: NDArray[np.int64],
        classes: list[str],
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        network_input: bool = False,
    ) -> None:
        if (mean is None) != (std is None) or (network_input and mean is not None):
            raise InputError("give mean and std together, and neither for images as a network takes them")
        values = _channels_first(images)
        self.classes, self._targets = classes, targets
        self.not_images: list[str] = []
        self.space = NETWORK if network_input else PIXELS
        self.exact: NDArray[np.float32] | None = None
        self.rounded, self.clipped = 0.0, 0.0
        if values.dtype == np.uint8:
            self._pixels = values
            return
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DatasetError(f"image {int(np.argmin(np.isfinite(values).all(axis=(1, 2, 3))))} has NaN or infinity")
        shown = values
        if mean is not None and std is not None:
            scale, shift = (np.array(part, np.float32).reshape(1, 3, 1, 1) for part in (std, mean))
            shown = values = values * scale + shift
        elif network_input:
            low, high = float(values.min()), float(values.max())
            shown = (values - low) / max(high - low, 1e-12)
        elif values.min() < -0.5 or values.max() > 1.5:
            raise DatasetError(
                f"images have values from {values.min():.3g} to {values.max():.3g}, not 0 (black) to 1 (white): give "
                "--mean and --std where they are normalised, or --network-input where they are as a network takes them"
            )
        levels = np.clip(shown * 255, 0, 255)
        self._pixels = np.rint(levels).astype(np.uint8)
        self.rounded = float(np.abs(levels - self._pixels).max())
        self.clipped = float(((shown < 0) | (shown > 1)).mean())
        # Images that were uint8 before come back as they were, up to float32.
        if network_input or self.rounded > 1e-3 or self.clipped:
            self.exact = values

    def __len__(self) -> int:
        return len(self._targets)

    def name(self, row: int) -> str:
        """For messages."""
        return f"image {row} of the tensors"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        """RGB uint8 [H, W, 3] and the class."""
        return np.ascontiguousarray(self._pixels[row].transpose(1, 2, 0)), int(self._targets[row])


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """[N, 3, H, W]; one colour becomes three."""
    numbers = images.dtype == np.uint8 or images.dtype.kind == "f"
    if images.ndim != 4 or 0 in images.shape or not numbers:
        raise DatasetError(f"images are {images.dtype} {list(images.shape)}, expected uint8 or floats [N, 3, H, W]")
    if images.shape[1] not in (1, 3):
        if images.shape[3] not in (1, 3):
            raise DatasetError(f"images are {list(images.shape)}: neither [N, 3, H, W] nor [N, H, W, 3]")
        images = images.transpose(0, 3, 1, 2)
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def exact_path(beton: Path) -> Path:
    """Where the exact values of the images of a .beton file are kept."""
    return beton.with_name(beton.name + ".exact.npz")


def read_exact(beton: Path) -> tuple[NDArray[np.float32], str] | None:
    """Exact images float32 [N, 3, H, W] of a .beton file and their space; None where there are none.

    DatasetError where the file beside it is damaged.
    """
    path = exact_path(beton)
    if not path.exists():
        return None
    arrays = read_arrays(path)
    images, space = arrays.get("images"), str(arrays.get("space", ""))
    if images is None or images.ndim != 4 or images.dtype != np.float32 or space not in (PIXELS, NETWORK):
        raise DatasetError(f"{path} does not hold the exact images of {beton}: write them again, or remove it")
    return images, space
