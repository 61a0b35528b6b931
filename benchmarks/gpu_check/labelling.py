"""Part (c): ResNet-50 alone and in `cache_labels`, crops made on the device, and what labels cost a student."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from fastlabel.benchmarks import cache, device_crops, student
from fastlabel.benchmarks.gpu_check.check import Cell, Check
from fastlabel.benchmarks.gpu_check.kernels import finish, kernel_seconds
from fastlabel.benchmarks.harness import alternate
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.dataset.beton import Beton
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.classifier import Classifier
from fastlabel.teachers.precision import PRECISIONS, teacher_precision
from fastlabel.views import ViewPolicy

QUESTION = "labelling: the teacher alone, the share of it that cache_labels reaches, crops, a student's epoch"
WAYS = ("cast", "autocast", "folded", "compiled")
FORWARD_BATCH, RECORDS = 256, 16384


class Labelling:
    """The images and networks that the cells share, each made when it is first needed."""

    def __init__(self, check: Check) -> None:
        self.check, self.size = check, check.size(224, 16)
        self.arch, self.student = ("convnet-d2-w8",) * 2 if check.quick else ("resnet50", "resnet18")
        self.batch = check.size(FORWARD_BATCH, 8)

    @cached_property
    def beton(self) -> Beton:
        """Records of a few hundred photos, so many that a run's fixed cost, half a second, hardly counts."""
        check = self.check
        path = photo_beton(check.folder, check.photos, check.size(200, 16), cache.CLASSES, check.size(RECORDS, 16))
        return Beton.open(path)

    def describe(self) -> dict[str, Any]:
        """What is measured on."""
        return {"records": self.beton.num_samples, "photos": self.check.photos is not None, "size": self.size}

    def teacher_alone(self, way: str, batch: int) -> dict[str, Any]:
        """Crops a second of the network on crops that are ready, with and without the host's time."""
        device = self.check.device
        teacher = cache.random_teacher(self.arch, self.size, device)
        network = teacher.model if way == "autocast" else ways_of(teacher.model, teacher.precision)[way]()
        crops = torch.randint(256, (batch, self.size, self.size, 3), dtype=torch.uint8, device=device)

        @torch.inference_mode()
        def forward() -> Tensor:
            with teacher_precision(device.type, teacher.precision):
                logits: Tensor = network(crops.permute(0, 3, 1, 2))
            return logits

        repeats = self.check.size(max(4, 4096 // batch), 1)
        timing = alternate({way: partial(_repeated, forward, repeats, device)}, 3)[way]
        figures: dict[str, Any] = {"crops_per_second": batch * repeats / timing.median, "repeats": repeats}
        replayed = kernel_seconds({way: forward}, device, 3).get(way) if device.type == "cuda" else None
        return figures if replayed is None else {**figures, "graph_crops_per_second": batch / replayed.median}

    def cache_labels(self, forward_batch: int) -> dict[str, Any]:
        """The whole run of 8 views by its limits; the share of the teacher alone is the aim, 0.95 and more."""
        device = self.check.device
        samples = self.beton.num_samples // forward_batch * forward_batch
        run = cache.Run(
            self.beton,
            cache.random_teacher(self.arch, self.size, device),
            ViewPolicy.random_resized_crop(self.size),
            samples,
            forward_batch,
            device,
        )
        result = cache.measure(run, self.check.folder / "cache", 1, with_fkd=False)
        rates = result["crops_per_second"]
        return {**result, "share_of_teacher_alone": rates["cache_labels"] / rates["teacher alone"]}

    def crops(self, views: int) -> dict[str, Any]:
        """Crops a second that the device makes of whole images, alone and behind the decoders."""
        batch = self.check.size(64, 4)
        timings = device_crops.measure(self.beton.path, self.check.device, self.size, views, batch, 2)
        return {"views": views, "images": self.beton.num_samples, "seconds": timings}

    def student_epoch(self) -> dict[str, Any]:
        """Images a second that a student trains on by kind of labels; cached ones are to reach 0.98 of hard ones."""
        check, store = self.check, self.check.folder / "student.zarr"
        shutil.rmtree(store, ignore_errors=True)
        teacher = cache.random_teacher(self.student, self.size, check.device)
        cache_labels(self.beton, store, [teacher], student.VIEWS, student.K, self.size, device=check.device)
        few, archs = check.size(1024, 8), (self.arch, self.student)
        ways = student.cases(self.beton, store, self.size, archs, few, check.size(256, 8))
        kept = {name: ways[name] for name in (student.CACHED, student.HARD, student.ONLINE)}
        timings = alternate({name: way for name, (way, _) in kept.items()}, check.size(2, 1))
        rates = {name: images / timings[name].median for name, (_, images) in kept.items()}
        shares = {name: rate / rates[student.HARD] for name, rate in rates.items()}
        return {"seconds": timings, "images_per_second": rates, "share_of_hard": shares}


def cells(check: Check) -> Iterator[Cell]:
    """Those of the goals first, then the batch sizes."""
    labelling = Labelling(check)
    batch = labelling.batch
    yield "images", labelling.describe
    yield f"cache_labels, batch {batch}", partial(labelling.cache_labels, batch)
    yield "student", labelling.student_epoch
    for way in WAYS[: check.size(4, 3)]:
        yield f"teacher alone, {way}, batch {batch}", partial(labelling.teacher_alone, way, batch)
    for views in (1, 8):
        yield f"device crops, {views} views", partial(labelling.crops, views)
    for other in () if check.quick else (64, 512, 128):
        for way in WAYS[:3]:
            yield f"teacher alone, {way}, batch {other}", partial(labelling.teacher_alone, way, other)


def ways_of(model: Classifier, precision: str) -> dict[str, Callable[[], nn.Module]]:
    """The same network with its weights cast once, with batch norm folded into them, and compiled."""
    from fastlabel.teachers.forward_network import compiled, with_cast_weights

    dtype, device = PRECISIONS[precision], model.mean.device
    return {
        "cast": lambda: with_cast_weights(model, dtype),
        "folded": lambda: with_cast_weights(Classifier(model.spec, fuse(model.net)).to(device).eval(), dtype),
        "compiled": lambda: compiled(with_cast_weights(model, dtype)),
    }


def _repeated(forward: Callable[[], Any], repeats: int, device: torch.device) -> None:
    for _ in range(repeats):
        forward()
    finish(device)
