"""How fast is a labelling run, next to what it cannot do without: decoding alone, and the teacher alone?

    fastlabel bench cache

The whole of cache_labels into an empty store: 8 views, K=16 of 1,000 classes, crops of 224 pixels, teachers with random
weights (the time does not depend on what they say). Its limits, with the same crops: the image loader alone, and the
teacher's network alone on canonical batches that are ready. Where both need all cores, as on a CPU, no run can be
faster than one after the other: 1 / (1/decode + 1/teacher) crops a second; where a GPU runs the teacher, than the
slower of the two. FKD's way cuts the same crops in a DataLoader with a worker for each core, and writes a file per
image; its teacher runs in the same precision. On a GPU a run takes at least 4,096 images: a fixed cost hardly counts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from fastlabel.benchmarks.harness import alternate
from fastlabel.benchmarks.peers import fkd_labelling
from fastlabel.benchmarks.photos import photo_beton, write_jpegs
from fastlabel.benchmarks.question import Answer, Setup, bars, rate, rate_cells
from fastlabel.dataset.beton import Beton
from fastlabel.images.device_loader import make_image_loader
from fastlabel.labelling.cache import cache_labels, decode_batch_size
from fastlabel.labelling.forward import TeacherForward
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.system.devices import pick_device
from fastlabel.teachers.recorded import describe
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy

QUESTION = "crops labelled a second, next to decoding alone and the teacher alone"
VIEWS, K, CLASSES = 8, 16, 1000
# Teacher: how many images it labels, in seconds. On a CPU a usual network, and one that is cheap beside decoding.
ON_CPU, ON_CUDA = {"resnet18": 32, "shufflenet_v2_x0_5": 64}, {"resnet50": 4096}


@dataclass(frozen=True)
class Run:
    """What is labelled: some samples of a file, by one teacher."""

    beton: Beton
    teacher: Teacher
    policy: ViewPolicy
    samples: int
    forward_batch: int
    device: torch.device

    @property
    def crops(self) -> int:
        return self.samples * VIEWS


def random_teacher(arch: str, size: int, device: torch.device) -> Teacher:
    """A network with random weights."""
    torch.manual_seed(0)
    model = Classifier(ModelSpec(arch, CLASSES, size)).eval().to(device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    return Teacher(model, f"random {arch}", epoch=0, precision=precision)


def cases(run: Run, folder: Path) -> dict[str, Callable[[], Any]]:
    """The whole run and its two limits; each makes all crops of the run once."""
    number, ids = count(), np.arange(run.samples)
    images = make_image_loader(run.beton, run.policy, decode_batch_size(run.policy, run.device), 0, run.device)
    info = describe(run.teacher, run.beton, K, run.device, run.forward_batch)
    forward = TeacherForward(run.teacher, info, run.device)
    size = run.policy.size
    ready = torch.randint(256, (run.forward_batch, size, size, 3), dtype=torch.uint8).to(run.device)

    def whole() -> None:
        store = folder / f"{next(number)}.zarr"
        options: dict[str, Any] = {"policy": run.policy, "subset": ids, "device": run.device}
        cache_labels(run.beton, store, [run.teacher], VIEWS, K, forward_batch=run.forward_batch, **options)

    def decode() -> None:
        with images.epoch(ids, range(VIEWS)) as epoch:
            for _ in epoch:
                pass
        _finish(run.device)

    def teacher() -> None:
        for _ in range(run.crops // run.forward_batch):
            forward.logits(ready, run.forward_batch)
        _finish(run.device)

    return {"cache_labels": whole, "decode alone": decode, "teacher alone": teacher}


def fkd_case(run: Run, folder: Path) -> Callable[[], Any]:
    """FKD's way to make all crops of the run once."""
    number, loader = count(), fkd_loader(run, write_jpegs(run.beton, folder / "jpegs"))

    def of_fkd() -> None:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.teacher.precision == "bf16"):
            fkd_labelling.label_images(loader, run.teacher.model.net, folder / f"fkd-{next(number)}", run.device)

    return of_fkd


def fkd_loader(run: Run, jpegs: list[Path]) -> DataLoader[fkd_labelling.Item]:
    """Batches of as many crops as the teacher takes at once."""
    ids = np.arange(run.samples)
    boxes = [run.policy.boxes(v, ids, run.beton.heights[ids], run.beton.widths[ids]) for v in range(VIEWS)]
    crops = fkd_labelling.Crops(jpegs[: run.samples], torch.from_numpy(np.stack(boxes, 1)), run.policy.size)
    workers = os.cpu_count() or 1
    return DataLoader(crops, run.forward_batch // VIEWS, num_workers=workers, persistent_workers=True)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(run: Run, folder: Path, rounds: int, with_fkd: bool = True) -> dict[str, Any]:
    """Seconds of each case, crops a second, and the share of its limits that the whole run reaches."""
    folder.mkdir()
    ways = cases(run, folder) | ({"fkd": fkd_case(run, folder)} if with_fkd else {})
    timings = alternate(ways, rounds)
    shutil.rmtree(folder)
    rates = {name: run.crops / timing.median for name, timing in timings.items()}
    decode, teacher = rates["decode alone"], rates["teacher alone"]
    one_after_other = 1 / (1 / decode + 1 / teacher)
    against_fkd = {"times_faster_than_fkd": rates["cache_labels"] / rates["fkd"]} if with_fkd else {}
    return {
        "teacher": run.teacher.name,
        "precision": run.teacher.precision,
        "crops": run.crops,
        "seconds": timings,
        "crops_per_second": rates,
        "crops_per_second_one_after_the_other": one_after_other,
        "share_of_slower_limit": rates["cache_labels"] / min(decode, teacher),
        "share_of_one_after_the_other": rates["cache_labels"] / one_after_other,
        **against_fkd,
    }


def answer(setup: Setup) -> Answer:
    """The question for each teacher of this kind of device."""
    device, size = pick_device("auto"), setup.size(224, 16)
    teachers = ON_CUDA if device.type == "cuda" else ON_CPU
    at_least = max(teachers.values()) if device.type == "cuda" else 0
    beton = Beton.open(photo_beton(setup.folder, setup.photos, setup.size(384, 16), CLASSES, at_least))
    policy = ViewPolicy.random_resized_crop(size)
    results: list[dict[str, Any]] = []
    for arch, most in teachers.items():
        batch = setup.size(256 if device.type == "cuda" else 32, 8)
        samples = min(setup.size(most, 16), beton.num_samples)
        samples = max(batch, samples // batch * batch)  # whole canonical batches: a padded one would count as time
        teacher = random_teacher("convnet-d2-w8" if setup.quick else arch, size, device)
        run = Run(beton, teacher, policy, samples, batch, device)
        results.append(measure(run, setup.folder / f"cache-{len(results)}", setup.rounds_or(3)))
    figures: dict[str, Any] = {"photos": setup.photos is not None, "size": size, "views": VIEWS, "k": K}
    figures |= {"classes": CLASSES, "device": device.type, "teachers": results}
    notes = [f"{setup.images}; {VIEWS} crops of {size} pixels of each; {device.type}.", *map(_note, results)]
    rates = {f"{r['teacher']}: {n}": rate(t, r["crops"]) for r in results for n, t in r["seconds"].items()}
    plot = bars(rates, "crops/s", [name for name in rates if name.endswith("cache_labels")], log=True)
    heads = ("teacher and way", "crops/s", "p20 to p80", "cache_labels is")
    return Answer(QUESTION, figures, heads, [row for r in results for row in _rows(r)], notes, plot)


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    rates = result["crops_per_second"]
    for name, timing in result["seconds"].items():
        times = f"{rates['cache_labels'] / rates[name]:.2f}x"
        yield f"{result['teacher']}: {name}", *rate_cells(timing, result["crops"]), times


def _note(result: dict[str, Any]) -> str:
    return (
        f"{result['teacher']}: {result['share_of_slower_limit']:.3f} of the slower limit, "
        f"{result['share_of_one_after_the_other']:.3f} of one limit after the other."
    )
