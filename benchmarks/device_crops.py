"""How many crops does a device make of whole images, and who is the limit: it, or the CPU that decodes for it?

    python -m fastlabel.benchmarks.device_crops [--photos FOLDER] [--device cuda] [--json OUT]

Crops a second at V views per image: of the op alone, as uint8 and normalised for a network in bfloat16; of the whole
path (decode, upload, crop), and of the path that makes crops on the CPU. It runs on the CPU too, as a check of itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.dataset.beton import Beton
from fastlabel.images.device_loader import DeviceImageLoader
from fastlabel.images.loader import ImageLoader
from fastlabel.kernels.resized_crops import normalisation_table, normalised_crops, resized_crops
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD
from fastlabel.views import ViewPolicy

QUESTION = "crops a second that a device makes of whole images, by views per image"


def measure(beton: Path, device: torch.device, size: int, views: int, batch: int, rounds: int) -> dict[str, Timing]:
    """Seconds of each way to make ``views`` crops of every image."""
    file, policy, some = Beton.open(beton), ViewPolicy.random_resized_crop(size), range(views)
    geometry = _whole(file, policy, batch, views, device)
    table = normalisation_table(IMAGENET_MEAN, IMAGENET_STD, torch.bfloat16, device)
    loaders = {"path": DeviceImageLoader(file, policy, batch, device=device), "cpu": ImageLoader(file, policy, batch)}
    batches = -(-file.num_samples // batch)
    cases: dict[str, Callable[[], None]] = {
        "op": partial(_repeat, batches, lambda: resized_crops(*geometry, size)),
        "normalised": partial(_repeat, batches, lambda: normalised_crops(*geometry, size, table)),
    }
    cases |= {name: partial(_read, loader, some) for name, loader in loaders.items()}
    return alternate({name: partial(_finish, device, case) for name, case in cases.items()}, rounds)


def _whole(
    file: Beton, policy: ViewPolicy, batch: int, views: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch of images of noise, with the sizes and boxes of the file's."""
    ids = np.arange(batch) % file.num_samples
    heights, widths = file.heights[ids], file.widths[ids]
    boxes = np.stack([policy.boxes(view, ids, heights, widths) for view in range(views)], axis=1)
    nbytes = 3 * heights.astype(np.int64) * widths
    pixels = torch.randint(0, 256, (int(nbytes.sum()),), dtype=torch.uint8).to(device)
    offsets = np.cumsum(nbytes) - nbytes
    return pixels, *(torch.from_numpy(values) for values in (offsets, heights, widths, boxes))  # type: ignore[return-value]


def _repeat(times: int, case: Callable[[], Tensor]) -> None:
    for _ in range(times):
        case()


def _read(loader: ImageLoader, views: range) -> None:
    with loader.epoch(np.arange(loader.beton.num_samples), views) as batches:
        for _ in batches:
            pass


def _finish(device: torch.device, case: Callable[[], None]) -> None:
    case()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--count", default=200, show_default=True, help="Photo-like images to make without --photos.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--size", default=224, show_default=True)
@click.option("--views", default="1,4,8", show_default=True)
@click.option("--batch-size", default=64, show_default=True, help="Images.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    photos: Path | None, count: int, device: str, size: int, views: str, batch_size: int, rounds: int, out: Path | None
) -> None:
    """Measure the crops that a device makes of whole images."""
    figures: dict[str, Timing] = {}
    with tempfile.TemporaryDirectory() as folder:
        beton = photo_beton(Path(folder), photos, count, 8)
        images = Beton.open(beton).num_samples
        for V in map(int, views.split(",")):
            timings = measure(beton, torch.device(device), size, V, batch_size, rounds)
            # The op alone runs on whole batches.
            batches = -(-images // batch_size) * batch_size
            crops = {name: V * (batches if name in ("op", "normalised") else images) for name in timings}
            rates = ", ".join(f"{name} {crops[name] / timing.median:,.0f}" for name, timing in timings.items())
            click.echo(f"{V} views of {images} images on {device}, crops/s: {rates}")
            figures |= {f"{name}_{V}": timing for name, timing in timings.items()}
    if out is not None:
        shape = {"images": images, "photos": photos is not None, "size": size, "batch_size": batch_size}
        write_json(out, QUESTION, {**shape, "device": device, **figures})


if __name__ == "__main__":
    main()
