"""One image to the bytes and the metadata of ffcv's RGBImageField."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastlabel.dataset.beton_writer import IMAGE_TYPE
from fastlabel.dataset.ffcv_api import RGBImageField
from fastlabel.dataset.image_files import shrink
from fastlabel.errors import InputError

WRITE_MODES = ("jpg", "raw", "smart")


@dataclass(frozen=True)
class Encoded:
    """image_field: IMAGE_TYPE [1], its data_ptr still to be set; payload: uint8 [bytes]."""

    image_field: np.ndarray
    payload: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """How images are stored. `smart` without a threshold keeps the smaller of JPEG and raw pixels; with one,
    images above that many raw bytes become JPEGs, as in ffcv.
    """

    write_mode: str = "jpg"
    max_resolution: int | None = None
    jpeg_quality: int = 90
    smart_threshold: int | None = None

    def __post_init__(self) -> None:
        if self.write_mode not in WRITE_MODES:
            raise InputError(f"write mode {self.write_mode!r}: expected one of {', '.join(WRITE_MODES)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"JPEG quality {self.jpeg_quality}: expected 1 to 100")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise InputError(f"max resolution {self.max_resolution}: expected at least 1 pixel")
        if self.smart_threshold is not None and self.write_mode != "smart":
            raise InputError("a smart threshold needs write mode smart")
        if self.smart_threshold is not None and self.smart_threshold < 0:
            raise InputError(f"smart threshold {self.smart_threshold}: expected a number of bytes")

    def encode(self, image: np.ndarray) -> Encoded:
        """RGB uint8 [H, W, 3], made smaller where needed, as it will be stored."""
        image = shrink(image, self.max_resolution)
        if self.write_mode != "smart":
            return self._encode_as(self.write_mode, image)
        if self.smart_threshold is not None:
            return self._encode_as("jpg" if image.nbytes > self.smart_threshold else "raw", image)
        as_jpg = self._encode_as("jpg", image)
        return as_jpg if as_jpg.payload.nbytes < image.nbytes else self._encode_as("raw", image)

    def _encode_as(self, mode: str, image: np.ndarray) -> Encoded:
        image_field = np.zeros(1, IMAGE_TYPE)
        payloads: list[np.ndarray] = []

        def malloc(size: int) -> tuple[int, np.ndarray]:
            payloads.append(np.empty(size, np.uint8))
            return 0, payloads[-1]

        RGBImageField(write_mode=mode, jpeg_quality=self.jpeg_quality).encode(image_field, image, malloc)
        return Encoded(image_field, payloads[0])
