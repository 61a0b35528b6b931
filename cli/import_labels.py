"""fastlabel import"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command("import")
@click.argument("format_", metavar="FORMAT", type=click.Choice(["fkd-mix"]))
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA.beton", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.zarr", type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(1, 65535), required=True, help="Side of the crops in pixels.")
@click.option("--k", type=click.IntRange(min=1), help="Classes to keep of each label.  [default: 32, or all]")
@click.option(
    "--order-seed", type=click.IntRange(0, 2**63 - 1), default=42, show_default=True, help="Of fkd-mix: --fkd-seed."
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
    order_seed: int,
    unaligned: bool,
    as_json: bool,
) -> None:
    """Make a store, OUT.zarr, of labels that another project made of the images of DATA.beton.

    The images must stand in DATA.beton in the order and at the size in which they were labelled.
    """
    from fastlabel.interchange.fkd_mix import import_fkd_mix

    report = import_fkd_mix(source, data, out, size=size, k=k, order_seed=order_seed, unaligned=unaligned)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    mixed = ", mixed with partners" if report.mixed else ""
    click.echo(
        f"imported {report.store}: {report.samples:,} samples x {report.views:,} views{mixed}, top {report.k} of "
        f"{report.num_classes:,} classes, {report.bytes:,} bytes"
    )
    click.echo(f"the most probable class is that of an image in the crop in {report.agreement:.1%} of the labels")
