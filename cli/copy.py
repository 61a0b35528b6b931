"""fastlabel copy"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


class ViewRange(click.ParamType):
    """START:STOP, as Python's slices count."""

    name = "START:STOP"

    def convert(self, value: str | range, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        start, colon, stop = value.partition(":")
        if not (colon and stop.isdecimal() and (start or "0").isdecimal()):
            self.fail(f"{value!r} must be two whole numbers, such as 0:50 for the first fifty views", param, ctx)
        return range(int(start or "0"), int(stop))


@click.command("copy")
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.zarr", type=click.Path(path_type=Path))
@click.option("--views", type=ViewRange(), help="Only these: from 0 to the end of a unit.  [default: all]")
@click.option(
    "--teacher",
    "teachers",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Only this teacher of STORE.zarr, by number; repeat it for several.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(store: Path, out: Path, views: range | None, teachers: tuple[int, ...], as_json: bool) -> None:
    """Copy whole labelled units of STORE.zarr into a store of its own, OUT.zarr, byte for byte and checked.

    What is not labelled yet is left out; cache-labels continues the copy, or makes it grow.
    """
    from fastlabel.store.copy import copy_store

    report = copy_store(store, out, views, teachers or None, progress=True)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    missing = report.units - report.units_copied
    left_out = f"; {missing:,} were not labelled yet" if missing else ""
    click.echo(
        f"{report.store}: {report.units_copied:,} units of {report.samples:,} samples x {report.views:,} views by "
        f"{', '.join(report.teachers)}, {report.bytes:,} bytes{left_out}"
    )
