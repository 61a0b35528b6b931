"""Batches in memory, for the parts of training that need no files."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastlabel.dataset.write import write_dataset
from fastlabel.labelling.cache import cache_labels
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Trainer
from fastlabel.train.objectives import hard_loss
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run
from tests.stores import make_teacher

SPEC = ModelSpec("convnet-d1-w8", num_classes=4, size=8)


@dataclass(frozen=True)
class MemoryBatch:
    images: Tensor
    labels: TopKLabels | None
    targets: Tensor
    ids: Tensor


class MemoryLoader:
    """40 images of 4 classes that a tiny network can learn; every epoch has its own order."""

    def __init__(self, count=40, batch_size=16, classes=4, size=8, noise=40):
        random = torch.Generator().manual_seed(5)
        self.targets = torch.arange(count) % classes
        colours = torch.randint(0, 256, (classes, 3, 1, 1), generator=random)
        grain = torch.randint(-noise, noise + 1, (count, 3, size, size), generator=random)
        self.images = (colours[self.targets] + grain).clamp(0, 255).to(torch.uint8)
        logits = 8 * torch.rand(count, classes, generator=random)
        self.labels = TopKCodec(k=classes, num_classes=classes).encode(logits)
        self.batch_size = batch_size
        self.epoch = self.batches = 0
        self.epochs_served = []

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def samples_in(self, batch):
        return min(self.batch_size, len(self.targets) - batch * self.batch_size)

    def set_epoch(self, epoch):
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, 0

    def state_dict(self):
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state):
        self.epoch, self.batches = state["epoch"], state["batches"]

    def __iter__(self):
        self.epochs_served.append(self.epoch)
        order = torch.randperm(len(self.targets), generator=torch.Generator().manual_seed(self.epoch))
        for ids in order.split(self.batch_size)[self.batches :]:
            self.batches += 1
            yield MemoryBatch(self.images[ids], self.labels[ids], self.targets[ids], ids)
        self.epoch, self.batches = self.epoch + 1, 0


@pytest.fixture
def make_trainer():
    """make_trainer(folder, epochs=3, ...) -> a Trainer of the tiny network on the images in memory."""

    def make(folder, epochs=3, loss=None, loader=None, seed=0, recipe=None, **options):
        torch.manual_seed(seed)
        recipe = recipe or Recipe(epochs=epochs, batch_size=16, lr=0.05)
        return Trainer(
            model=Classifier(options.pop("spec", SPEC)),
            loader=loader or MemoryLoader(),
            loss=loss or hard_loss(),
            evaluate=Evaluator(MemoryLoader()),
            recipe=recipe,
            run=Run(folder, {"seed": seed, "recipe": recipe.to_dict()}),
            device=torch.device("cpu"),
            **options,
        )

    return make


@pytest.fixture(scope="session")
def small_store(tmp_path_factory):
    """24 images of 16 pixels and 3 classes, a store of 2 views with all classes."""
    folder = tmp_path_factory.mktemp("small")
    for index, pixels in enumerate(np.random.default_rng(4).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)):
        place = folder / "images" / f"class{index % 3}" / f"{index:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    write_dataset(folder / "images", folder / "data.beton", write_mode="raw", progress=False)
    cache_labels(folder / "data.beton", folder / "labels.zarr", [make_teacher()], views=2, k=3, policy="pad-crop")
    return SimpleNamespace(data=folder / "data.beton", store=folder / "labels.zarr")


@pytest.fixture
def train_command(small_store, cli, tmp_path):
    """train_command(*options, out="run", epochs=3) -> the result of train-student on that store."""

    def run(*options, out="run", epochs=3):
        files = ["train-student", small_store.data, small_store.store, "--val", small_store.data, "--device", "cpu"]
        usual = ["--arch", "convnet-d1-w8", "--epochs", epochs, "--batch-size", 8]
        return cli(*files, *usual, "--out", tmp_path / out, *options)

    return run
