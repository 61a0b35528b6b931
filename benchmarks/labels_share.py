"""What do cached labels cost, next to the images that they belong to?

    python -m fastlabel.benchmarks.labels_share [--photos FOLDER] [--json OUT]

An epoch of SoftLabelLoader without labels (decode, crop, resize), against all that labels add to it: reading and
checking the plane, gathering it by sample id, and decoding it to dense probabilities.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import torch

from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.benchmarks.photos import photo_beton
from fastlabel.dataset.beton import Beton
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.sampling import random_order
from fastlabel.store.store import LabelStore
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import Mixing

QUESTION = "share of the loader's time that labels take: plane load and check, gather, decode to dense"


def measure(beton: Path, store: Path, batch_size: int, rounds: int) -> dict[str, Timing]:
    """Seconds of as many epochs as there are views: their images, and their labels."""
    opened = LabelStore.open(store)
    file = Beton.open(beton)
    loader = SoftLabelLoader(file, None, batch_size, policy=opened.views)
    order = random_order(opened.ids, seed=0, epoch=0)

    def images() -> None:
        loader.set_epoch(0)
        for _ in range(opened.num_views):
            for _ in loader:
                pass

    def labels() -> None:
        # As the loader does it: a group of small planes is read at once.
        views = range(opened.num_views)
        for view in views:
            opened.check_boxes(view, file.heights, file.widths)
        for plane in opened.planes(views):
            for ids in np.split(order, range(batch_size, len(order), batch_size)):
                plane[ids].dense()

    return alternate({"images": images, "labels": labels}, rounds)


def make_store(beton: Path, store: Path, size: int, k: int, views: int, mixing: Mixing | None = None) -> None:
    """Labels of a network with random weights: their cost does not depend on what they say."""
    torch.manual_seed(0)
    model = Classifier(ModelSpec("convnet-d3-w8", Beton.open(beton).num_classes, size)).eval()
    teacher = Teacher(model, "random", epoch=0)
    cache_labels(beton, store, [teacher], views=views, k=k, mixing=mixing)


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--count", default=200, show_default=True, help="Photo-like images to make without --photos.")
@click.option("--size", default=224, show_default=True)
@click.option("--k", default=8, show_default=True)
@click.option("--classes", default=1000, show_default=True)
@click.option("--views", default=8, show_default=True)
@click.option("--batch-size", default=128, show_default=True)
@click.option("--rounds", default=7, show_default=True)
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
    """Measure the share of the loader's time that labels take."""
    with tempfile.TemporaryDirectory() as folder:
        beton = photo_beton(Path(folder), photos, count, classes)
        store = Path(folder) / "labels.zarr"
        make_store(beton, store, size, k, views)
        timings = measure(beton, store, batch_size, rounds)
        number = Beton.open(beton).num_samples * views
    share = timings["labels"].median / timings["images"].median
    per_image = {name: 1e6 * timing.median / number for name, timing in timings.items()}
    click.echo(
        f"{number} crops of {'photos' if photos else 'made images'}: images {per_image['images']:.0f} us each "
        f"({number / timings['images'].median:,.0f} images/s), labels {per_image['labels']:.1f} us each: {share:.2%}"
    )
    if out is not None:
        write_json(
            out,
            QUESTION,
            {
                "crops": number,
                "photos": photos is not None,
                "classes": classes,
                "k": k,
                "views": views,
                "share": share,
                **timings,
            },
        )


if __name__ == "__main__":
    main()
