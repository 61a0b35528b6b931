"""What does a student save that takes several views of an image per step?

    python -m fastlabel.benchmarks.views_per_image [--photos FOLDER] [--json OUT]

Crops a second of SoftLabelLoader, images and labels, at 1, 2, 4 ... views per image: every case makes the same crops,
each view of each image once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.benchmarks.labels_share import make_store
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.dataset.beton import Beton
from fastlabel.loading.loader import SoftLabelLoader

QUESTION = "crops a second of the loader, with labels, by the views of an image in a step"


def measure(beton: Path, store: Path, batch_size: int, views: int, most: int, rounds: int) -> dict[str, Timing]:
    """Seconds of making every crop of the store once, at 1, 2, 4, ... ``most`` views per image."""
    cases: dict[str, Callable[[], None]] = {}
    per_image = 1
    while per_image <= most:
        loader = SoftLabelLoader(beton, store, batch_size, views_per_image=per_image)
        cases[str(per_image)] = partial(read_epochs, loader, views // per_image)
        per_image *= 2
    return alternate(cases, rounds)


def read_epochs(loader: SoftLabelLoader, epochs: int) -> None:
    """Images and labels of some epochs, from the first one."""
    loader.set_epoch(0)
    for _ in range(epochs):
        for batch in loader:
            if batch.labels is not None:
                _ = batch.labels.codes  # labels are gathered when they are read


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--count", default=200, show_default=True, help="Photo-like images to make without --photos.")
@click.option("--size", default=224, show_default=True)
@click.option("--k", default=16, show_default=True)
@click.option("--classes", default=1000, show_default=True)
@click.option("--views", default=8, show_default=True, help="Of the store; a multiple of --most.")
@click.option("--most", default=8, show_default=True, help="Views per image, at most.")
@click.option("--batch-size", default=128, show_default=True, help="Crops.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    photos: Path | None,
    count: int,
    size: int,
    k: int,
    classes: int,
    views: int,
    most: int,
    batch_size: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Measure the loader at several views per image."""
    with tempfile.TemporaryDirectory() as folder:
        beton = photo_beton(Path(folder), photos, count, classes)
        store = Path(folder) / "labels.zarr"
        make_store(beton, store, size, k, views)
        timings = measure(beton, store, batch_size, views, most, rounds)
        crops = Beton.open(beton).num_samples * views
    single = timings["1"].median
    for per_image, timing in timings.items():
        rate, low, high = (crops / seconds for seconds in (timing.median, timing.p80, timing.p20))
        click.echo(
            f"{per_image} views per image: {rate:,.0f} crops/s ({low:,.0f} to {high:,.0f}, p20 to p80), "
            f"{single / timing.median:.2f} times 1"
        )
    if out is not None:
        shape = {"crops": crops, "photos": photos is not None, "size": size, "batch_size": batch_size}
        write_json(
            out,
            QUESTION,
            {**shape, "classes": classes, "k": k, **{f"views_{name}": timing for name, timing in timings.items()}},
        )


if __name__ == "__main__":
    main()
