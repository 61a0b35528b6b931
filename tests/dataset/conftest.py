"""Fixtures of betons, see tests/betons.py; and images as Tiny-ImageNet lays them out."""

from pathlib import Path

import pytest

from tests.betons import ffcv_betons, ffcv_images, write_beton
from tests.dataset.tiny_images import write_tiny

__all__ = ["ffcv_betons", "ffcv_images", "write_beton"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """50 images as Tiny-ImageNet's train: CLASS/images/*.JPEG beside CLASS_boxes.txt."""
    return write_tiny(tmp_path / "train")
