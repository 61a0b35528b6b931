"""fastlabel repair STORE.zarr DATA.beton --teacher SPEC ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlabel.cli.teacher_options import named_teachers, trust_option

if TYPE_CHECKING:
    from fastlabel.integrity.repair import RepairReport


@click.command("repair")
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA.beton", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--teacher",
    "teachers",
    metavar="SPEC",
    multiple=True,
    help="The teacher whose units are damaged; repeat it for several, and for each network of an ensemble.",
)
@trust_option
@click.option("--workers", "num_workers", type=click.IntRange(min=0), default=0, help="Threads. [default: all cores]")
@click.option("--device", help="cpu or cuda; must be the kind that labelled. [default: that]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    store: Path,
    data: Path,
    teachers: tuple[str, ...],
    trust_program: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Label the damaged units of STORE.zarr again, to the same bytes, and rebuild its damaged metadata.

    Sound units stay as they are. Exits with 0 when the store is sound afterwards, with 1 when something is left.
    """
    from fastlabel.integrity.repair import repair_store
    from fastlabel.system.signals import stop_requests

    with stop_requests("finishing the unit in hand; once more stops at once", patient=False) as stop:
        report = repair_store(store, data, named_teachers(teachers, trust_program), stop=stop, progress=True, **options)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        for line in _lines(report):
            click.echo(line)
    ctx.exit(1 if report.left else 0)


def _lines(report: RepairReport) -> list[str]:
    rebuild, label = ("would rebuild", "would label again") if report.dry_run else ("rebuilt", "labelled again")
    lines = [f"{rebuild}: {file}" for file in report.files]
    for unit in report.units:
        views, rows = (f"{start} to {stop - 1}" for start, stop in (unit.views, unit.rows))
        changed = "; its labels are not those of its old record" if unit.same_labels is False else ""
        lines.append(f"{label}: unit {unit.unit} of teacher {unit.teacher}, views {views}, rows {rows}{changed}")
    lines += [f"left: {finding}" for finding in report.left]
    if any(finding.unit is not None for finding in report.left):
        lines.append("units are left whose teacher was not given: name it with --teacher")
    what = (
        f"{len(report.files)} files rebuilt, {len(report.units)} units labelled again, {len(report.left)} errors left"
    )
    lines.append(f"{report.store}: {'dry run: ' if report.dry_run else ''}{what} ({report.seconds:.1f} s)")
    return lines
