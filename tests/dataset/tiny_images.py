"""50 images in three classes, laid out as Tiny-ImageNet's."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.conftest import photo_like

NAMES = ("n01", "n02", "n03")


def write_tiny(root: Path) -> Path:
    """As Tiny-ImageNet's train: CLASS/images/*.JPEG beside CLASS_boxes.txt."""
    for index in range(50):
        folder = root / NAMES[index % 3] / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / f"{folder.parent.name}_boxes.txt").write_text("x")
        Image.fromarray(photo_like(24, 28, index, index + 1)).save(folder / f"{index:02d}.JPEG", quality=95)
    return root
