"""What do networks on a CPU gain when freed memory is kept, and how much more memory do they hold at their peak?

    python -m fastlabel.benchmarks.allocator [--case NAME ...] [--json OUT]

Every case runs in two processes that differ in system/allocator.py alone, in turns: labelling by cache_labels (8 views
of 224 pixels), and training steps of the ConvNets of dataset distillation (32 pixels, batches of 256).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import click
import torch
from torch.nn.functional import cross_entropy

from fastlabel.benchmarks.harness import alternate, write_json
from fastlabel.benchmarks.isolated import Isolated
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.system.allocator import SWITCH, keep_freed_memory
from fastlabel.teachers.teacher import Teacher

QUESTION = "networks on a CPU with and without freed memory kept: images a second, memory at the peak"
VIEWS, K, CLASSES, FORWARD = 8, 16, 1000, 32
BATCH, SIDE = 256, 32
# Name: the network, and how many images are labelled or steps trained in one round.
LABELLING = {"label resnet18": ("resnet18", 32), "label shufflenet-x0.5": ("shufflenet_v2_x0_5", 64)}
TRAINING = {"train convnet-d3-w128": ("convnet-d3-w128", 2), "train convnet-d3-w32": ("convnet-d3-w32", 8)}
# By which a user may have set the allocator already.
VARIABLES = (SWITCH, "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def labelling(arch: str, beton: Path, folder: Path, keep: bool) -> Callable[[], None]:
    """Label all images of a file into a new store at each call."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = Classifier(ModelSpec(arch, CLASSES, 224)).eval()
    teacher = Teacher(model, arch, epoch=0)
    number = count()

    def run() -> None:
        store = folder / f"{arch}-{keep}-{next(number)}.zarr"
        cache_labels(beton, store, [teacher], VIEWS, K, 224, forward_batch=FORWARD, device="cpu")

    return run


def training(arch: str, steps: int, keep: bool, channels_last: bool = True) -> Callable[[], None]:
    """Steps of SGD on random images."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = Classifier(ModelSpec(arch, 10, SIDE)).to(memory_format=layout)
    images = torch.randint(256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8).contiguous(memory_format=layout)
    targets = torch.randint(10, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(images), targets).backward()
            optimizer.step()

    return run


def measure(make: Callable[..., Callable[[], None]], arguments: tuple[Any, ...], images: int, rounds: int) -> Any:
    """Images a second and bytes at the peak, of the allocator as it is and of one that keeps memory."""
    with Isolated(make, *arguments, False) as default, Isolated(make, *arguments, True) as kept:
        timings = alternate({"default": default, "kept": kept}, rounds)
        peaks = {"default": default.memory_bytes(), "kept": kept.memory_bytes()}
    rates = {name: images / timing.median for name, timing in timings.items()}
    seconds = {name: asdict(timing) for name, timing in timings.items()}
    return {"images": images, "seconds": seconds, "images_per_second": rates, "peak_bytes": peaks}


@click.command()
@click.option("--case", "names", type=click.Choice([*LABELLING, *TRAINING]), multiple=True, help="[default: all]")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(names: tuple[str, ...], rounds: int, out: Path | None) -> None:
    """Measure networks on a CPU with and without freed memory kept."""
    for variable in VARIABLES:
        os.environ.pop(variable, None)  # of the processes of the cases
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or (*LABELLING, *TRAINING):
            if name in LABELLING:
                arch, images = LABELLING[name]
                beton = photo_beton(Path(folder), None, images, CLASSES)
                found = measure(labelling, (arch, beton, Path(folder)), images * VIEWS, rounds)
            else:
                arch, steps = TRAINING[name]
                found = measure(training, (arch, steps), steps * BATCH, rounds)
            results[name] = found
            click.echo(_line(name, found))
    if out is not None:
        write_json(out, QUESTION, {"cases": results})


def _line(name: str, found: Any) -> str:
    rates, peaks = found["images_per_second"], found["peak_bytes"]
    parts = [f"{rates[way]:,.0f} images/s, {(peaks[way] or 0) / 1e6:,.0f} MB" for way in rates]
    return f"{name}: default {parts[0]}; kept {parts[1]}; {rates['kept'] / rates['default']:.2f} times as fast"


if __name__ == "__main__":
    main()
