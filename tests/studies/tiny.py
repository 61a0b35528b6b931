"""Small things that the tests of studies train on: five classes of 8 pixels, experts of three epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastlabel.dataset.write import write_dataset
from fastlabel.studies.config import StudyConfig, student_recipe
from fastlabel.studies.experts import ExpertsConfig
from fastlabel.studies.in_memory import ResidentImages
from fastlabel.train.recipes import Recipe

CLASSES, SIDE = 5, 8
ARCH = "zca:convnet-d1-w8"
EPOCHS = 3


def write_colours(folder: Path, name: str, per_class: int, seed: int, classes: int = CLASSES) -> Path:
    """Images of a class's colours with much grain, as one file `name`.beton in the folder."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(7).uniform(60, 200, (classes, 2, 2, 3)).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    for c in range(classes):
        place = folder / name / f"class{c}"
        place.mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(colours[c] + random.normal(0, 45, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02d}.png")
    write_dataset(folder / name, folder / f"{name}.beton", write_mode="raw", progress=False)
    return folder / f"{name}.beton"


def experts_config(data: Any, out: Path, **options: Any) -> ExpertsConfig:
    recipe = Recipe(EPOCHS, 32, lr=0.05, nesterov=False, weight_decay=0.0, schedule="constant")
    usual: dict[str, Any] = {"arch": ARCH, "recipe": recipe, "count": 1, "device": "cpu"}
    return ExpertsConfig(data.train, data.test, out, **usual | options)


def study_config(data: Any, experts: Path, out: Path, **options: Any) -> StudyConfig:
    usual: dict[str, Any] = {"recipe": student_recipe(2, batch_size=16), "repeats": 2, "device": "cpu"}
    return StudyConfig(data.train, data.test, experts, out, **usual | options)


def colour_images(per_class: int = 4, classes: int = 3, seed: int = 0) -> ResidentImages:
    """Images in memory of one colour and some grain, in the order of their classes."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat_interleave(per_class)
    # Colours that differ in their pattern: instance normalisation removes the mean of a channel.
    patterns = torch.randn(classes, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = patterns[targets] + 0.3 * torch.randn(len(targets), 3, 4, 4, generator=random)
    return ResidentImages(images, targets, np.arange(len(targets)))
