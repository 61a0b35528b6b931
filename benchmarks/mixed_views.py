"""What do CutMix and MixUp cost beside the same views alone?

    python -m fastlabel.benchmarks.mixed_views [--photos FOLDER] [--json OUT]

Crops a second of SoftLabelLoader, images and labels, in alternating rounds.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import click

from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.benchmarks.labels_share import make_store
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.benchmarks.views_per_image import read_epochs
from fastlabel.dataset.beton import Beton
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.views import Mixing

QUESTION = "crops a second of the loader, with labels, of views that are mixed and of the same ones alone"
MIXINGS = {
    "alone": None,
    "CutMix": Mixing.of(cutmix=1.0),
    "MixUp": Mixing.of(mixup=1.0),
    "CutMix or MixUp": Mixing.of(cutmix=0.5, mixup=0.5),
}


def measure(
    beton: Path, stores: dict[str, Path], batch_size: int, views: int, per_image: int, rounds: int
) -> dict[str, Timing]:
    """Seconds of making every crop of each store once."""
    loaders = {
        name: SoftLabelLoader(beton, store, batch_size, views_per_image=per_image) for name, store in stores.items()
    }
    return alternate({name: partial(read_epochs, one, views // per_image) for name, one in loaders.items()}, rounds)


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--count", default=256, show_default=True, help="Photo-like images to make without --photos.")
@click.option("--size", default=224, show_default=True)
@click.option("--k", default=16, show_default=True)
@click.option("--classes", default=1000, show_default=True)
@click.option("--views", default=8, show_default=True, help="Of the stores; a multiple of 8.")
@click.option("--batch-size", default=512, show_default=True, help="Crops.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    photos: Path | None,
    count: int,
    size: int,
    k: int,
    classes: int,
    views: int,
    batch_size: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Measure crops a second of mixed views beside the same views alone, at one and at eight views per image."""
    figures: dict[str, object] = {"photos": photos is not None, "views": views, "size": size, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as folder:
        beton = photo_beton(Path(folder), photos, count, classes)
        stores = {name: Path(folder) / f"{place}.zarr" for place, name in enumerate(MIXINGS)}
        for name, mixing in MIXINGS.items():
            make_store(beton, stores[name], size, k, views, mixing)
        crops = views * Beton.open(beton).num_samples
        for per_image in (1, min(8, views)):
            timings = measure(beton, stores, batch_size, views, per_image, rounds)
            for name, timing in timings.items():
                share = timings["alone"].median / timing.median
                click.echo(f"{per_image} views per image, {name}: {crops / timing.median:,.0f} crops/s, {share:.3f}")
                figures[f"{name}, {per_image} views"] = timing
    if out is not None:
        write_json(out, QUESTION, figures)


if __name__ == "__main__":
    main()
