"""fastlabel write-dataset SRC OUT.beton"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("write-dataset")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="OUT.beton", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--max-resolution", type=click.IntRange(min=1), metavar="N", help="Longer side at most N pixels.")
@click.option(
    "--write-mode",
    type=click.Choice(["jpg", "raw", "smart"]),
    help="smart: the smaller of JPEG and raw pixels. [default: jpg; raw for the digits]",
)
@click.option(
    "--smart-threshold",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="With smart: images of more raw bytes than this become JPEGs.",
)
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads. [default: 0, every core]")
@click.option("--skip-broken", is_flag=True, help="Leave unreadable images out and list them, instead of stopping.")
@click.option("--force", is_flag=True, help="Replace OUT.beton if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(source: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write the images of SRC into one file, OUT.beton, and the class names into OUT.beton.json.

    SRC is a folder of class folders (any image that Pillow reads), digits:train, digits:test, or
    torchvision:CLASS:ROOT:train, as in torchvision:CIFAR10:data:train (already downloaded).
    """
    from fastlabel.dataset.write import write_dataset

    report = write_dataset(source, out, **options)
    for line in report.left_out:
        click.echo(f"left out {line}", err=True)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    click.echo(
        f"wrote {report.path}: {report.num_samples:,} samples, {len(report.classes):,} classes, "
        f"{report.nbytes:,} bytes ({report.write_mode}), {len(report.left_out):,} left out"
    )
    if report.not_images:
        click.echo(f"{len(report.not_images):,} files and folders are no images, for example {report.not_images[0]}")
