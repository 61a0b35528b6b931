"""Any map-style dataset of torch as a source: items (image, class), the image by Pillow, path or encoded bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastlabel.dataset.image_files import UnreadableImageError, read_bytes, read_image, read_image_bytes, to_rgb
from fastlabel.errors import DatasetError, InputError


class TorchSource:
    """A dataset with a length whose items are (image, class number), in its order."""

    write_mode = "jpg"

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(
                f"{type(dataset).__name__} is no source: expected a folder, a name, or a dataset with a length "
                "whose items are (image, class)"
            )
        if not len(dataset):
            raise DatasetError(f"{type(dataset).__name__} holds no samples")
        self._data = dataset
        names = getattr(dataset, "classes", None) or []
        self.classes = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in names]
        self.not_images: list[str] = []

    def __len__(self) -> int:
        return len(self._data)

    def name(self, row: int) -> str:
        return f"sample {row} of {type(self._data).__name__}"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        image, target = self._item(row)
        return pixels_of(image), target

    def file(self, row: int) -> tuple[bytes, int]:
        image, target = self._item(row)
        if isinstance(image, (str, os.PathLike)):
            return read_bytes(Path(image)), target
        if isinstance(image, (bytes, bytearray)):
            return bytes(image), target
        raise UnreadableImageError(
            f"its image is of type {type(image).__name__}: write mode keep takes paths and encoded bytes"
        )

    def _item(self, row: int) -> tuple[Any, int]:
        item = self._data[row]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UnreadableImageError(f"it is of type {type(item).__name__}, expected (image, class)")
        try:
            target = int(item[1])
        except (TypeError, ValueError) as error:
            raise UnreadableImageError(f"its class is {str(item[1])[:40]!r}, expected a number") from error
        return item[0], target


def pixels_of(image: Any) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an image as datasets give it. UnreadableImageError for anything else."""
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableImageError(f"{error}") from error
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    if isinstance(image, (bytes, bytearray)):
        return read_image_bytes(bytes(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    raise UnreadableImageError(
        f"its image is of type {type(image).__name__}, expected a PIL image, a path, encoded bytes, or RGB uint8 "
        "[H, W, 3]: leave out the dataset's transform"
    )
