"""Image files to RGB pixels, and how they are made smaller before they are stored."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MAX_SIDE = 65535  # the .beton format keeps sides in 16 bits


class UnreadableImageError(Exception):
    """This image cannot be read or stored; the message says why, without naming the sample."""


def read_image(path: Path) -> np.ndarray:
    """The first frame of an image file as RGB uint8 [H, W, 3], not rotated by EXIF (nor does torchvision).

    Raises UnreadableImageError for whatever Pillow cannot read whole.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
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
    if max(image.size) > MAX_SIDE:
        raise UnreadableImageError(f"{image.width}x{image.height} pixels: at most {MAX_SIDE} on a side")
    if image.mode.startswith("I"):
        return _gray_to_rgb(np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8)
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range: convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return np.array(image.convert("RGB"))


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
