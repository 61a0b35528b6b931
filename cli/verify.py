"""fastlabel verify STORE.zarr [DATA.beton] [--teacher SPEC ...]"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlabel.cli.teacher_options import named_teachers, trust_option

if TYPE_CHECKING:
    from fastlabel.integrity.report import VerifyReport


@click.command("verify")
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("data", metavar="[DATA.beton]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--teacher",
    "teachers",
    metavar="SPEC",
    multiple=True,
    help="A teacher of the store: make a sample of its labels again from the pixels of DATA, and compare.",
)
@trust_option
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Labels of each teacher to make again, rounded up to whole forward batches.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses those batches.")
@click.option(
    "--tolerate-rounding",
    is_flag=True,
    help="Accept labels that differ by rounding: made by another CPU, GPU or PyTorch. Always on for another kind of "
    "device than the one that labelled.",
)
@click.option("--complete", is_flag=True, help="Also fail where units are not labelled yet.")
@click.option("--workers", "num_workers", type=click.IntRange(min=0), default=0, help="Threads. [default: all cores]")
@click.option("--device", help="cpu or cuda, for the teachers. [default: cuda when there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    store: Path,
    data: Path | None,
    teachers: tuple[str, ...],
    trust_program: bool,
    complete: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check every file, record and digest of STORE.zarr, and change nothing.

    With DATA.beton also that it is the dataset that was labelled, and all crop boxes. Exits with 0 when all is sound,
    with 1 when something is wrong; each finding is a line that begins with error or note.
    """
    from fastlabel.integrity.verify import verify_store
    from fastlabel.system.allocator import keep_freed_memory

    if teachers:
        keep_freed_memory()
    report = verify_store(store, data, named_teachers(teachers, trust_program), progress=True, **options)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        for finding in report.findings:
            click.echo(finding)
        click.echo(_describe(report))
    ctx.exit(0 if report.sound and (report.complete or not complete) else 1)


def _describe(report: VerifyReport) -> str:
    checked = f"{report.units_sound:,} of {report.units:,} units are sound" if report.units else "no unit was checked"
    parts = [checked]
    if report.units_committed < report.units:
        parts.append(f"{report.units - report.units_committed:,} are not labelled yet")
    parts.append(f"{report.files:,} files, {report.bytes:,} bytes")
    if report.dataset_checked:
        parts.append("dataset and crop boxes compared")
    if report.labels_recomputed:
        parts.append(
            f"{report.labels_recomputed:,} labels recomputed, {report.labels_rounded:,} of them differ by rounding"
        )
    errors = len(report.errors)
    verdict = "sound" if report.sound else "1 error" if errors == 1 else f"{errors:,} errors"
    return f"{report.store}: {verdict}: {', '.join(parts)} ({report.seconds:.1f} s)"
