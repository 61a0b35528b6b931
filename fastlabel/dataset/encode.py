"""One image to the bytes and the metadata of ffcv's RGBImageField."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastlabel.dataset.image_files import UnreadableImageError, read_image_bytes, read_plain_jpeg, shrink
from fastlabel.dataset.tables import IMAGE, JPEG, RAW
from fastlabel.errors import InputError
from fastlabel.system.arguments import integer_between

WRITE_MODES = ("jpg", "raw", "smart", "keep")
MAX_JPEG_SIDE = 65500  # of libjpeg
MAX_RESTART_INTERVAL = 65535  # a JPEG keeps it in 16 bits
RESTART_INTERVAL = 2  # MCUs: one view is decoded fastest, see docs/images.md
_MCU = 16  # pixels: OpenCV halves the resolution of colours both ways


@dataclass(frozen=True)
class Encoded:
    """image_field: IMAGE [1], its data_ptr still to be set; payload: uint8 [bytes]; kept: as they came."""

    image_field: np.ndarray
    payload: np.ndarray
    kept: bool = False


@dataclass(frozen=True)
class Encoder:
    """How images are stored. `smart` without a threshold keeps the smaller of JPEG and raw pixels; with one,
    images above that many raw bytes become JPEGs, as in ffcv. `keep` leaves JPEGs that fit as they are, and makes JPEGs
    of the others. `restart_interval` is in MCUs (the blocks of 16
    pixels that a JPEG codes as one), 0 for no restart markers (ITU-T T.81, B.2.4.4): the pixels are the same with them.
    A JPEG gets the largest interval up to this one that divides the MCUs of its rows.
    """

    write_mode: str = "jpg"
    max_resolution: int | None = None
    jpeg_quality: int = 90
    smart_threshold: int | None = None
    restart_interval: int = 0

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

        # 0 is no markers, more are MCUs.
        integer_between("restart_interval", self.restart_interval, 0, MAX_RESTART_INTERVAL + 1)
        if self.restart_interval and self.write_mode in ("raw", "keep"):
            raise InputError(
                f"a restart interval needs JPEGs of our own: expected write mode jpg or smart, not {self.write_mode}"
            )

    def keep(self, data: bytes) -> Encoded:
        """An image file's bytes as they are, where they are a JPEG that fits; encoded anew where not.

        Raises UnreadableImageError for an image that cannot be read, or is too large for a JPEG.
        """
        image = read_plain_jpeg(data)
        if image is not None and max(image.shape) <= (self.max_resolution or MAX_JPEG_SIDE):
            return Encoded(_image_field(JPEG, image), np.frombuffer(data, np.uint8), kept=True)
        return self.encode(read_image_bytes(data))

    def encode(self, image: np.ndarray) -> Encoded:
        """RGB uint8 [H, W, 3], made smaller where needed, as it will be stored; the bytes are those of ffcv's writer.

        Raises UnreadableImageError for an image that is too large for a JPEG.
        """
        image = shrink(image, self.max_resolution)
        if self.write_mode == "raw" or (self.write_mode == "smart" and max(image.shape) > MAX_JPEG_SIDE):
            return _raw(image)
        if self.smart_threshold is not None and image.nbytes <= self.smart_threshold:
            return _raw(image)
        as_jpeg = self._jpeg(image)
        compare = self.write_mode == "smart" and self.smart_threshold is None
        return _raw(image) if compare and as_jpeg.payload.nbytes >= image.nbytes else as_jpeg

    def _jpeg(self, image: np.ndarray) -> Encoded:
        import cv2

        height, width = image.shape[:2]
        if max(height, width) > MAX_JPEG_SIDE:
            raise UnreadableImageError(
                f"{width}x{height} pixels: a JPEG has at most {MAX_JPEG_SIDE} on a side; use --write-mode raw "
                "or smart, or --max-resolution"
            )
        options = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
        if self.restart_interval:
            options += [cv2.IMWRITE_JPEG_RST_INTERVAL, _largest_divisor(-(-width // _MCU), self.restart_interval)]
        done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if not done:
            raise UnreadableImageError(f"{width}x{height} pixels: OpenCV cannot make a JPEG of it")
        return Encoded(_image_field(JPEG, image), jpeg.reshape(-1))


def _largest_divisor(number: int, at_most: int) -> int:
    return next(divisor for divisor in range(min(number, at_most), 0, -1) if number % divisor == 0)


def _raw(image: np.ndarray) -> Encoded:
    return Encoded(_image_field(RAW, image), np.ascontiguousarray(image).reshape(-1))


def _image_field(mode: int, image: np.ndarray) -> np.ndarray:
    field = np.zeros(1, IMAGE)
    field["mode"], (field["height"], field["width"]) = mode, image.shape[:2]
    return field
