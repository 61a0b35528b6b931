"""Run as a program: writes betons as a user of FFCV does, with nothing of ours. python ffcv_betons.py FOLDER

A process of its own because FFCV's writer forks, and prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SHAPES = [(40, 56), (33, 33), (61, 47), (1, 9), (25, 90), (64, 64), (48, 31), (50, 50)]


def make_images() -> list[np.ndarray]:
    """Smooth images with some noise, of the shapes above, twice."""
    random = np.random.default_rng(7)
    images = []
    for height, width in SHAPES * 2:
        y, x = np.mgrid[0 : height * 0.1 : height * 1j, 0 : width * 0.07 : width * 1j]
        waves = np.stack([np.sin(x + c) * np.cos(y * random.uniform(0.3, 1) + c) for c in range(3)], axis=2)
        pixels = 127 + 100 * waves + random.normal(0, 8, waves.shape)
        images.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return images


def large_images() -> list[np.ndarray]:
    random = np.random.default_rng(8)
    return [random.integers(0, 256, (600 + 10 * index, 700, 3), dtype=np.uint8) for index in range(5)]


def main(folder: Path) -> None:
    from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    images = make_images()
    labels = [index % 5 for index in range(len(images))]

    def write(name: str, fields: dict, columns: list, page_size: int = 1 << 21, **options: object) -> None:
        writer = DatasetWriter(str(folder / f"{name}.beton"), fields, page_size=page_size, num_workers=1)
        writer.from_indexed_dataset(list(zip(*columns, strict=True)), **options)

    def usual(**options: object) -> dict:
        return {"image": RGBImageField(**options), "label": IntField()}

    np.random.seed(3)  # mode `proportion` draws lots
    write("jpg", usual(write_mode="jpg", jpeg_quality=90), [images, labels])
    write("raw", usual(write_mode="raw"), [images, labels])
    write("smart", usual(write_mode="smart", smart_threshold=8000), [images, labels])
    write("proportion", usual(write_mode="proportion", compress_probability=0.5), [images, labels])
    write("resized", usual(write_mode="jpg", max_resolution=32), [images, labels])
    # The same content, laid out in another way: pages of another size, written in small pieces.
    write("pages", usual(write_mode="jpg", jpeg_quality=90), [images, labels], page_size=1 << 22, chunksize=3)
    write("other-label", usual(write_mode="jpg", jpeg_quality=90), [images, [4, *labels[1:]]])
    # Fields in between, some with payloads, some of them empty: an empty one has the pointer of what follows it.
    texts = [np.frombuffer(b"text" * (index % 3), np.uint8) for index in range(len(images))]
    fields = {
        "text": BytesField(),
        "label": IntField(),
        "weight": FloatField(),
        "image": RGBImageField(write_mode="smart", smart_threshold=8000),
        "extra": BytesField(),
        "info": JSONField(),
        "vector": NDArrayField(np.dtype("float32"), (3,)),
    }
    rest = [[{"index": label} for label in labels], [np.arange(3, dtype=np.float32)] * len(images)]
    write("extra", fields, [texts, labels, [0.5] * len(images), images, texts[1:] + texts[:1], *rest])
    # Each image fills a page of its own: a text that went before it on a full page is written again.
    fields = {"text": BytesField(), "image": RGBImageField(write_mode="raw"), "label": IntField()}
    write("large", fields, [texts[1:6], large_images(), labels[:5]])
    # What fastlabel cannot use.
    write("no-label", {"image": RGBImageField(write_mode="raw")}, [images])
    write("float-label", {"image": RGBImageField(write_mode="raw"), "label": FloatField()}, [images, labels])
    write("other-names", {"x": RGBImageField(write_mode="raw"), "y": IntField()}, [images, labels])

    class OwnField(IntField):
        pass

    write("own-field", {**usual(write_mode="raw"), "own": OwnField()}, [images, labels, labels])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
