"""fastlabel write-dataset SRC OUT.beton"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

OF_TENSORS = {
    "labels_out": "--labels",
    "label_values": "--label-values",
    "mean": "--mean",
    "std": "--std",
    "network_input": "--network-input",
    "classes_of": "--classes-of",
}


@click.command("write-dataset")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="OUT.beton", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--max-resolution", type=click.IntRange(min=1), metavar="N", help="Longer side at most N pixels.")
@click.option(
    "--write-mode",
    type=click.Choice(["jpg", "raw", "smart", "keep"]),
    help="smart: the smaller of JPEG and raw pixels; keep: JPEGs as they are, the others as jpg. "
    "[default: jpg; raw for the digits]",
)
@click.option(
    "--smart-threshold",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="With smart: images of more raw bytes than this become JPEGs.",
)
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option(
    "--restart-interval",
    type=click.IntRange(0, 65535),
    metavar="MCUS",
    help="At most so many blocks between restart markers of the JPEGs, 0 for none.  [default: 2]",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads. [default: 0, every core]")
@click.option("--skip-broken", is_flag=True, help="Leave unreadable images out and list them, instead of stopping.")
@click.option("--classes", metavar="FILE|OTHER.beton", help="Number the classes as these are: names, one a line.")
@click.option("--force", is_flag=True, help="Replace OUT.beton if it exists.")
@click.option("--labels", "labels_out", type=click.Path(path_type=Path), help="tensors: a store for their soft labels.")
@click.option("--label-values", type=click.Choice(["logits", "probabilities"]), help="tensors: what soft labels are.")
@click.option("--mean", type=float, nargs=3, help="tensors: colours that images were normalised with.")
@click.option("--std", type=float, nargs=3, help="tensors: their deviations.")
@click.option("--network-input", is_flag=True, default=None, help="tensors: images are as a network takes them.")
@click.option("--classes-of", type=click.Path(path_type=Path), metavar="OTHER.beton", help="tensors: their classes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(source: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write the images of SRC into one file, OUT.beton, and the class names into OUT.beton.json.

    SRC is a folder of class folders (any image that Pillow reads), digits:train, digits:test,
    wds:PATTERN (tars of KEY.jpg and KEY.cls), hf:PATH:SPLIT (Parquet, or a dataset that Hugging Face saved), or
    torchvision:CLASS:ROOT:train, as in torchvision:CIFAR10:data:train (already downloaded), or tensors:IMAGES,LABELS
    (.pt, .npz, .h5, ...), one file or two: docs/interchange.md.
    """
    from fastlabel.dataset.write import write_dataset

    own = {name: options.pop(name) for name in OF_TENSORS}
    given = {name: value for name, value in own.items() if value is not None}
    if source.startswith("tensors:"):
        from fastlabel.interchange.distilled import write_distilled

        if options.pop("classes") is not None:
            raise click.UsageError("--classes: tensors:... take --classes-of OTHER.beton")
        done = write_distilled(source, out, **given, **options)
        report = done.dataset
        if done.exact is not None and not as_json:
            click.echo(
                f"8 bits are {done.rounded:.3g} levels off, clip {done.clipped:.1%}; exact values are in {done.exact}"
            )
        if done.store is not None and not as_json:
            click.echo(f"labels in {done.store}")
    elif given:
        names = ", ".join(sorted(OF_TENSORS[name] for name in given))
        raise click.UsageError(f"{names}: an option of tensors:..., and SRC is {source}")
    else:
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
    if report.write_mode == "keep":
        click.echo(f"{report.kept:,} JPEGs as they were, {report.num_samples - report.kept:,} images encoded anew")
    if report.not_images:
        click.echo(f"{len(report.not_images):,} files and folders are no images, for example {report.not_images[0]}")
