"""Batches in memory, for the parts of training that need no files."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Trainer
from fastlabel.train.objectives import hard_loss
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run

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
