"""Image files to RGB pixels, and how they are made smaller before they are stored."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from fastlabel.system.regular_files import open_regular, read_regular

MAX_SIDE = 65535  # the .beton format keeps sides in 16 bits
LEAST_OF_16_BITS = 4096  # what has no larger value was made with 12 bits or fewer, and would be nearly black
WIDENED = ("PNG", "PPM")  # formats whose 16 bits some versions of Pillow give as 32
# Of bytes between the last pixel and the end: nothing is lost. Photos of ImageNet have them.
HARMLESS = "extraneous bytes before marker 0xd9"


class UnreadableImageError(Exception):
    """This image cannot be read or stored; the message says why, without naming the sample."""


def read_image(path: Path) -> np.ndarray:
    """The first frame of an image file as RGB uint8 [H, W, 3], not rotated by EXIF (nor does torchvision).

    Raises UnreadableImageError for whatever cannot be read whole, or has no defined range of values.
    """
    return _read(lambda: open(open_regular(path), "rb"))


def read_image_bytes(data: bytes) -> np.ndarray:
    """As `read_image`, of a file's bytes."""
    return _read(lambda: io.BytesIO(data))


def read_plain_jpeg(data: bytes) -> np.ndarray | None:
    """RGB uint8 [H, W, 3] of a JPEG that every reader of a .beton takes as it is; None for any other bytes."""
    from fastlabel.dataset.turbojpeg import read_jpeg

    if data[:2] != b"\xff\xd8":
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and max(image.size) <= MAX_SIDE
            height, width = image.height, image.width
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError):
        return None
    if not plain:
        return None
    pixels, complaint = read_jpeg(data, height, width)
    return pixels if complaint is None else None


def read_bytes(path: Path) -> bytes:
    """All bytes of an image file. UnreadableImageError where it cannot be read."""
    try:
        return read_regular(path, sys.maxsize)
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error


def _read(opened: Callable[[], BinaryIO]) -> np.ndarray:
    try:
        with opened() as file, Image.open(file) as image:
            pixels = _jpeg_pixels(file, image) if image.format in ("JPEG", "MPO") else None
            return to_rgb(image) if pixels is None else pixels
    except FileNotFoundError as error:
        raise UnreadableImageError("the file does not exist") from error
    except PermissionError as error:
        raise UnreadableImageError("no permission to read it") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that Pillow can read") from error
    # Pillow's decoders raise all of these on damaged files.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        EOFError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow image as RGB uint8 [H, W, 3]. Transparency is dropped, 16-bit gray keeps its high byte."""
    check_size(image)
    if image.mode == "I" and image.format not in WIDENED:
        raise UnreadableImageError("32-bit integer pixels have no defined range: convert it to 8 bits")
    if image.mode.startswith("I"):
        gray = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        if 0 < gray.max() < LEAST_OF_16_BITS:
            raise UnreadableImageError(
                f"its 16-bit pixels go up to {gray.max():,} of 65,535 only: convert it to 8 bits by its real range"
            )
        return _gray_to_rgb(gray >> 8)
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range: convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return np.array(image.convert("RGB"))


def _jpeg_pixels(file: BinaryIO, image: Image.Image) -> np.ndarray | None:
    """RGB pixels of a JPEG that is whole, which Pillow does not tell; None for one that only Pillow can convert."""
    from fastlabel.dataset.turbojpeg import read_jpeg

    check_size(image)
    file.seek(0)
    pixels, complaint = read_jpeg(file.read(), image.height, image.width, cmyk=image.mode == "CMYK")
    if complaint is None or complaint.endswith(HARMLESS):
        return None if image.mode == "CMYK" else pixels
    if "determine subsampling" in complaint:  # TurboJPEG knows the usual ones alone
        return None
    raise UnreadableImageError(complaint)


def check_size(image: Image.Image) -> None:
    """UnreadableImageError for an image that the .beton format has no room for."""
    if max(image.size) > MAX_SIDE:
        raise UnreadableImageError(f"{image.width}x{image.height} pixels: at most {MAX_SIDE} on a side")


def shrink(image: np.ndarray, max_resolution: int | None) -> np.ndarray:
    """The longer side brought down to `max_resolution` pixels by area averaging, the other rounded down."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if max_resolution is None or longest <= max_resolution:
        return image
    import cv2

    size = (max(1, width * max_resolution // longest), max(1, height * max_resolution // longest))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _gray_to_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
