"""How many images a second does a student train on, with hard labels, cached ones, and the teacher online?

    fastlabel bench student

Real training steps (forward, loss, backward, SGD) of one small student on crops of the same images: hard labels by
SoftLabelLoader without a store, cached labels of 1,000 classes (K=16, one view in each epoch) with one, the teacher on
every batch; and both kinds of labels with 4 views of a decoded image in each step. On a CPU crops have 64 pixels: the
network is to cost no more than its images, or the price of labels would not show. On a GPU the student is a ResNet-18
that trains as `train-student` does there: in bfloat16, with the fastest convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlabel.benchmarks.cache import random_teacher
from fastlabel.benchmarks.harness import alternate
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.benchmarks.question import Answer, Setup, bars, rate, rate_cells
from fastlabel.dataset.beton import Beton
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.store.store import LabelStore
from fastlabel.system.devices import pick_device
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.train.loop import fastest_convolutions
from fastlabel.train.objectives import PerSampleLoss, TrainingBatch, cached_loss, hard_loss, online_loss
from fastlabel.train.recipes import Recipe

QUESTION = "images a second that a student trains on: hard labels, cached labels, the teacher online"
VIEWS, K, CLASSES, MANY = 8, 16, 1000, 4
HARD, CACHED, ONLINE = "hard labels", "cached labels", "teacher online"


class Student:
    """A network in training, by one kind of labels."""

    def __init__(self, arch: str, size: int, loader: SoftLabelLoader, loss: PerSampleLoss) -> None:
        torch.manual_seed(0)
        self.model = Classifier(ModelSpec(arch, CLASSES, size)).to(loader.device)
        self.recipe = Recipe(epochs=1)
        self.optimizer = self.recipe.make_optimizer(self.model.parameters())
        self.loader, self.loss = loader, loss

    def train(self, epochs: int) -> float:
        """The loss of the last batch, which waits for the device."""
        self.loader.set_epoch(0)
        loss = torch.zeros(())
        with fastest_convolutions(self.loader.device):
            for _ in range(epochs):
                for batch in self.loader:
                    loss = self._step(batch)
            return loss.item()

    def _step(self, batch: TrainingBatch) -> Tensor:
        with self.recipe.autocast(self.loader.device):
            logits = self.model(batch.images)
        loss = self.loss(logits, batch).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def cases(
    beton: Beton, store: Path, size: int, archs: tuple[str, str], few: int, batch_size: int
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Each way to train, and the crops that it trains on in one call: 4 views, or of some images one."""
    device, opened = pick_device("auto"), LabelStore.open(store)
    teacher = random_teacher(archs[0], size, device)
    online = online_loss(LabellingNetwork(teacher).to(device))

    def student(loss: PerSampleLoss, with_store: bool, views_per_image: int = 1, ids: Any = None) -> Student:
        source = None if with_store else opened.views
        options: dict[str, Any] = {"policy": source, "views_per_image": views_per_image, "indices": ids}
        loader = SoftLabelLoader(beton, opened if with_store else None, batch_size, device, **options)
        return Student(archs[1], size, loader, loss)

    hard, cached = student(hard_loss(), False), student(cached_loss(), True)
    hard_many, cached_many = student(hard_loss(), False, MANY), student(cached_loss(), True, MANY)
    taught = student(online, False, ids=np.arange(few))
    crops = beton.num_samples * MANY
    return {
        HARD: (lambda: hard.train(MANY), crops),
        CACHED: (lambda: cached.train(MANY), crops),
        ONLINE: (lambda: taught.train(1), few),
        f"{HARD}, {MANY} views": (lambda: hard_many.train(1), crops),
        f"{CACHED}, {MANY} views": (lambda: cached_many.train(1), crops),
    }


def answer(setup: Setup) -> Answer:
    """Images a second by each kind of labels."""
    device, images = pick_device("auto"), setup.size(384, 16)
    on_gpu = device.type == "cuda"
    size, batch_size = setup.size(224 if on_gpu else 64, 16), 256 if on_gpu else 64
    usual = ("resnet50", "resnet18") if on_gpu else ("resnet18", "convnet-d3-w8")
    teacher, student = ("convnet-d2-w8", "convnet-d2-w8") if setup.quick else usual
    beton = Beton.open(photo_beton(setup.folder, setup.photos, images, CLASSES, 4096 if on_gpu else 0))
    store = setup.folder / "student.zarr"
    # The labels of another network will do: what they say does not matter here, and it labels sooner.
    cache_labels(beton, store, [random_teacher(student, size, device)], VIEWS, K, size, device=device)
    few = min(1024 if on_gpu else 64, beton.num_samples)
    ways = cases(beton, store, size, (teacher, student), few, batch_size)
    timings = alternate({name: way for name, (way, _) in ways.items()}, setup.rounds_or(9))
    rates = {name: rate(timings[name], crops) for name, (_, crops) in ways.items()}
    shares = {name: rates[name][0] / rates[HARD][0] for name in rates}
    rows = [(name, *rate_cells(timings[name], ways[name][1]), f"{shares[name]:.3f}") for name in ways]
    figures: dict[str, Any] = {"photos": setup.photos is not None, "size": size, "batch": batch_size, "k": K}
    figures |= {
        "classes": CLASSES,
        "device": device.type,
        "student": student,
        "teacher": teacher,
        "images": beton.num_samples,
    }
    figures |= {"seconds": timings, "images_per_second": {n: r[0] for n, r in rates.items()}, "share_of_hard": shares}
    many = f", {MANY} views"
    figures |= {"share_of_hard_with_many_views": rates[CACHED + many][0] / rates[HARD + many][0]}
    notes = [
        f"{setup.images}, crops of {size} pixels, batches of {batch_size}; {device.type}.",
        f"The student is {student}, the teacher online {teacher}; both have random weights.",
    ]
    plot = bars(rates, "images/s", [name for name in rates if name.startswith(CACHED)])
    return Answer(QUESTION, figures, ("labels", "images/s", "p20 to p80", "of hard labels"), rows, notes, plot)
