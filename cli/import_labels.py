"""fastlabel import"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

FORMATS = ("fkd-mix", "fkd", "tinyvit", "dense")
# Options that one format alone has: its name, and the name that the command line shows.
OWNERS = {
    "order_seed": ("fkd-mix", "--order-seed"),
    "crops": ("tinyvit", "--crops"),
    "whole_images": ("tinyvit", "--whole-images"),
    "keys": ("tinyvit", "--keys"),
    "values": ("dense", "--values"),
}


@click.command("import")
@click.argument("format_", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA.beton", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.zarr", type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(1, 65535), required=True, help="Side of the crops in pixels.")
@click.option("--k", type=click.IntRange(min=1), help="Classes to keep of each label.  [default: 32, or all]")
@click.option("--order-seed", type=click.IntRange(0, 2**63 - 1), help="fkd-mix: of its --fkd-seed.  [default: 42]")
@click.option("--crops", type=click.Path(path_type=Path), metavar="FILE.npy", help="tinyvit: the boxes of its crops.")
@click.option("--whole-images", is_flag=True, default=None, help="tinyvit: the labels are of whole images.")
@click.option("--keys", type=click.Path(path_type=Path), metavar="FILE", help="tinyvit: line n is the key of sample n.")
@click.option(
    "--values", type=click.Choice(["logits", "probabilities"]), help="dense: what an array without name holds."
)
@click.option("--unaligned", is_flag=True, help="Import labels that fit their samples no better than by chance.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    format_: str,
    source: Path,
    data: Path,
    out: Path,
    size: int,
    k: int | None,
    unaligned: bool,
    as_json: bool,
    **own: Any,
) -> None:
    """Make a store, OUT.zarr, of labels that another project made of the images of DATA.beton.

    FORMAT is fkd-mix (SRe2L and its family: a folder of epoch_E/batch_B.tar), fkd (a file for each image), tinyvit (a
    folder of logits_topK_epochE), or dense (.npy, .npz or .safetensors). The images must stand in DATA.beton in the
    order and at the size in which they were labelled.
    """
    from fastlabel.interchange.dense import import_dense
    from fastlabel.interchange.fkd_images import import_fkd
    from fastlabel.interchange.fkd_mix import import_fkd_mix
    from fastlabel.interchange.tinyvit import import_tinyvit

    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if OWNERS[name][0] != format_:
            raise click.UsageError(f"{OWNERS[name][1]} is an option of {OWNERS[name][0]}, and this is {format_}")
    functions: dict[str, Any] = {
        "fkd-mix": import_fkd_mix, "fkd": import_fkd, "tinyvit": import_tinyvit, "dense": import_dense
    }  # fmt: skip
    report = functions[format_](source, data, out, size=size, k=k, unaligned=unaligned, **given)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    mixed = ", mixed with partners" if report.mixed else ""
    click.echo(
        f"imported {report.store}: {report.samples:,} samples x {report.views:,} views{mixed}, top {report.k} of "
        f"{report.num_classes:,} classes, {report.bytes:,} bytes"
    )
    click.echo(f"the most probable class is that of an image in the crop in {report.agreement:.1%} of the labels")
