"""Do memory and threads stay flat, epoch after epoch of the loader?

    python -m fastlabel.benchmarks.loader_soak [--beton FILE | --photos FOLDER] [--epochs 50] [--json OUT]

After every epoch of SoftLabelLoader: the process's resident memory, its anonymous part (without the pages of the
mapped dataset file), and its threads, all from /proc. Every fifth epoch is left half-way, as a reader may do. The
slope is that of a line through the epochs after the warm-up.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from fastlabel.benchmarks.harness import write_json
from fastlabel.benchmarks.labels_share import make_store
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.dataset.beton import Beton
from fastlabel.loading.loader import SoftLabelLoader

QUESTION = "memory and thread count of the process after each epoch of the loader"
KIB = 1024


@dataclass(frozen=True)
class Footprint:
    """What the process holds: bytes of resident memory, bytes of its anonymous part, native threads, open files."""

    rss: int
    anonymous: int
    threads: int
    files: int

    @classmethod
    def now(cls) -> Footprint:
        time.sleep(0.05)  # a thread that was joined leaves /proc a moment later
        lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        status = {name: value.split()[0] for name, value in lines if value.split()}
        files = len(list(Path("/proc/self/fd").iterdir()))
        return cls(int(status["VmRSS"]) * KIB, int(status["RssAnon"]) * KIB, int(status["Threads"]), files)


def soak(loader: SoftLabelLoader, epochs: int, leave_every: int) -> list[Footprint]:
    """The footprint after each epoch; every ``leave_every``-th is left half-way (0: none)."""
    footprints = []
    for epoch in range(1, epochs + 1):
        leave = len(loader) // 2 if leave_every and epoch % leave_every == 0 else len(loader)
        for number, batch in enumerate(loader, start=1):
            assert batch.labels is not None and len(batch)
            if number == leave:
                break
        del batch
        footprints.append(Footprint.now())
    return footprints


def slope(values: list[int], warmup: int) -> float:
    """Growth for each epoch after the warm-up, by least squares."""
    kept = values[warmup:]
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0]) if len(kept) > 1 else 0.0


def summary(footprints: list[Footprint], warmup: int) -> dict[str, float]:
    """Slopes in bytes per epoch, and the extremes of the epochs after the warm-up."""
    kept = footprints[warmup:]
    anonymous = [footprint.anonymous for footprint in kept]
    threads = [footprint.threads for footprint in kept]
    return {
        "rss_slope": slope([footprint.rss for footprint in footprints], warmup),
        "anonymous_slope": slope([footprint.anonymous for footprint in footprints], warmup),
        "anonymous_first": anonymous[0],
        "anonymous_last": anonymous[-1],
        "anonymous_range": max(anonymous) - min(anonymous),
        "threads_min": min(threads),
        "threads_max": max(threads),
        "files_min": min(footprint.files for footprint in kept),
        "files_max": max(footprint.files for footprint in kept),
    }


@click.command()
@click.option("--beton", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A dataset file.")
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--count", default=200, show_default=True, help="Photo-like images to make without either.")
@click.option("--size", default=224, show_default=True)
@click.option("--k", default=16, show_default=True)
@click.option("--classes", default=1000, show_default=True, help="Of photos and made images.")
@click.option("--views", default=8, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--epochs", default=50, show_default=True)
@click.option("--warmup", default=10, show_default=True, help="Epochs that the slope leaves out.")
@click.option("--leave-every", default=5, show_default=True, help="Leave every n-th epoch half-way; 0: none.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    beton: Path | None,
    photos: Path | None,
    count: int,
    size: int,
    k: int,
    classes: int,
    views: int,
    batch_size: int,
    epochs: int,
    warmup: int,
    leave_every: int,
    out: Path | None,
) -> None:
    """Run the loader for many epochs, and see whether anything grows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Beton.open(beton or photo_beton(Path(folder), photos, count, classes))
        store = Path(folder) / "labels.zarr"
        make_store(file.path, store, size, min(k, file.num_classes), views)
        loader = SoftLabelLoader(file, store, batch_size)
        before = Footprint.now()
        footprints = soak(loader, epochs, leave_every)
    figures = summary(footprints, warmup)
    for epoch, footprint in enumerate([before, *footprints]):
        click.echo(f"epoch {epoch:3d}  {_describe(footprint)}")
    click.echo(
        f"after epoch {warmup}: {figures['anonymous_slope'] / KIB:+.1f} KiB of anonymous memory an epoch, "
        f"{figures['anonymous_range'] / KIB:,.0f} KiB between the least and the most; "
        f"{figures['threads_min']} to {figures['threads_max']} threads, "
        f"{figures['files_min']} to {figures['files_max']} open files"
    )
    if out is not None:
        sizes = {"samples": file.num_samples, "size": size, "views": views, "batch_size": batch_size}
        rules = {"epochs": epochs, "warmup": warmup, "leave_every": leave_every, "made_images": not (beton or photos)}
        each = {"before": asdict(before), "after_each_epoch": [asdict(footprint) for footprint in footprints]}
        write_json(out, QUESTION, sizes | rules | figures | each)


def _describe(footprint: Footprint) -> str:
    return (
        f"{footprint.rss / KIB**2:8.1f} MiB resident, {footprint.anonymous / KIB**2:8.1f} MiB anonymous, "
        f"{footprint.threads} threads, {footprint.files} files"
    )


if __name__ == "__main__":
    main()
