"""Small datasets, teachers and stores for the tests of labelling and loading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fastlabel.dataset.write import write_dataset
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.teachers.teacher import Teacher


def make_teacher(num_classes: int = 3, size: int = 16, seed: int = 0, name: str = "expert") -> Teacher:
    """A tiny network with random weights, scaled so that its labels are neither flat nor one-hot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(ModelSpec("convnet-d2-w8", num_classes, size)).eval().requires_grad_(False)
    classifier = model.net.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    classifier.weight.data *= 8
    return Teacher(model, name, epoch=3)


def write_photos(folder: Path, out: Path) -> Path:
    write_dataset(folder, out, progress=False)
    return out


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


Maker = Callable[..., Path]


def store_maker(beton: Path, folder: Path) -> Maker:
    """make(name, **options) labels ``beton`` into a store and gives its path."""

    def make(name: str = "labels", **options: object) -> Path:
        path = folder / f"{name}.zarr"
        usual: dict[str, object] = {"teachers": [make_teacher()], "views": 3, "k": 2, "size": 16, "forward_batch": 4}
        cache_labels(beton, path, **usual | options)  # type: ignore[arg-type]
        return path

    return make
