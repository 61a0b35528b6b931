"""Images to measure on: a folder of photos, or photo-like ones that are made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.class_names import class_names_path
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import InputError

CLASSES = 8


def photo_beton(folder: Path, photos: Path | None, count: int, classes: int, at_least: int = 0) -> Path:
    """A .beton of photos at a longer side of at most 500 pixels, JPEG 90, as FFCV's ImageNet recipe has them.

    ``photos`` is a folder of images or of class folders; without it ``count`` photo-like images are made. The file
    is given ``classes`` classes, most of which may have no image: the price of a label depends on their number. Images
    come again, as samples of their own, until there are ``at_least`` of them.
    """
    name = f"made-{count}" if photos is None else "photos"
    out = folder / f"{name}-{at_least}.beton"
    if out.exists():  # made for another question of this run
        return out
    source = _make(folder / name, count) if photos is None else photos
    if at_least or not any(path.is_dir() for path in source.iterdir()):
        source = _as_classes(source, folder / f"linked-{at_least}", at_least)
    report = write_dataset(source, out, max_resolution=500, jpeg_quality=90, progress=False)
    names = [*report.classes, *(f"empty-{number}" for number in range(len(report.classes), classes))]
    class_names_path(out).write_text(json.dumps({"format": 1, "classes": names}))
    return out


def write_jpegs(beton: Beton, folder: Path) -> list[Path]:
    """The images of a .beton file of JPEGs as files of the same bytes, in the order of the samples."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{sample:07d}.jpg" for sample in range(beton.num_samples)]
    for sample, path in enumerate(paths):
        path.write_bytes(beton.payload(sample))
    return paths


def _as_classes(photos: Path, folder: Path, at_least: int) -> Path:
    """Links to all images below a folder, in class folders; again from the first one until there are enough."""
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise InputError(f"{photos} holds no .jpg, .jpeg or .png file: expected a folder of images or of class folders")
    for index in range(max(len(found), at_least)):
        path = found[index % len(found)]
        target = folder / f"class-{index % CLASSES}" / f"{index:06d}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    return folder


def _make(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    for index in range(count):
        height, width = (500, int(random.integers(333, 501)))
        # Noise at several scales has about the spectrum of a photo, and so about its size as a JPEG.
        layers = [_noise(random, height, width, cell) * cell**0.5 for cell in (2, 8, 32, 128)]
        pixels = np.sum(layers, axis=0)
        scaled = 128 + 40 * (pixels - pixels.mean()) / pixels.std()
        path = folder / f"class-{index % CLASSES}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).save(path, quality=92)
    return folder


def _noise(random: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    small = random.normal(size=(height // cell + 2, width // cell + 2, 3)).astype(np.float32)
    planes = [Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
