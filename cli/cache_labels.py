"""fastlabel cache-labels DATA.beton STORE.zarr --teacher SPEC ..."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlabel.cli.mixing_options import mixing_options, take_mixing
from fastlabel.cli.teacher_options import take_teachers, teacher_options
from fastlabel.cli.view_options import take_views, view_options
from fastlabel.system.progress import duration

if TYPE_CHECKING:
    from fastlabel.labelling.cache import CacheReport


@click.command("cache-labels")
@click.argument("data", metavar="DATA.beton", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@teacher_options
@click.option("--views", type=click.IntRange(min=1), required=True, metavar="V", help="Crops of each image.")
@click.option(
    "--k",
    type=click.IntRange(min=1),
    metavar="K",
    help="Classes kept of each label. [default: what a goal below chooses]",
)
@click.option(
    "--transform",
    type=click.IntRange(min=1),
    metavar="R",
    help="Also keep R coefficients of all logits, for losses at any temperature. Makes a basis from some crops first.",
)
@click.option(
    "--step",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    metavar="NATS",
    help="Of a code of these coefficients: a larger one takes fewer bytes and keeps less.",
)
@click.option(
    "--logit-offset",
    is_flag=True,
    help="With a transform: also keep the mean logit, for losses that compare logits themselves (mse-logits).",
)
@click.option("--budget", type=float, metavar="BYTES", help="Goal: at most so many bytes a crop on disk.")
@click.option("--keep-information", metavar="SHARE@T", help="Goal: the fewest bytes that keep, say, 0.9@T4.")
@click.option("--max-kl", metavar="NATS@T", help="Goal: the fewest bytes that lose at most, say, 0.02@T1.")
@click.option("--size", type=click.IntRange(min=1), metavar="S", help="Side of a crop. [default: the teacher's]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the views and of --ipc. [default: 0]")
@view_options
@mixing_options
@click.option("--ipc", type=click.IntRange(min=1), metavar="N", help="Label N random images per class only.")
@click.option(
    "--subset",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Label only the samples whose indices FILE lists, one a line.",
)
@click.option("--workers", "num_workers", type=click.IntRange(min=0), default=0, help="Threads. [default: all cores]")
@click.option("--decode-batch", type=click.IntRange(min=1), metavar="B", help="Samples decoded at a time.")
@click.option(
    "--forward-batch",
    type=click.IntRange(min=1),
    metavar="F",
    help="Samples in a forward pass. Part of what a label is: other values give labels that differ in last bits. "
    "[default: 256 on CUDA, 64 on a CPU]",
)
@click.option("--device", help="cpu or cuda. [default: cuda when there is one]")
@click.option("--dry-run", is_flag=True, help="Say crops, bytes and an estimate of the time, and label nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(data: Path, store: Path, subset: Path | None, as_json: bool, **options: Any) -> None:
    """Label V views of every image of DATA.beton by the teachers, into STORE.zarr.

    A run that was interrupted goes on where it was when the same command is given again.
    """
    from fastlabel.errors import Interrupted
    from fastlabel.labelling.cache import cache_labels
    from fastlabel.system.ranks import Ranks
    from fastlabel.system.signals import stop_requests

    options["goal"] = _goal(*(options.pop(name) for name in ("budget", "keep_information", "max_kl")))
    options["policy"] = take_views(options)
    options["mixing"] = take_mixing(options, options["policy"].mixing is not None)
    ids = None if subset is None else _read_subset(subset)
    teachers = take_teachers(options)
    ranks = Ranks.current()
    if ranks.world_size == 1:
        _name_other_gpus(options["device"])
    try:
        with stop_requests("finishing the unit in hand; once more stops at once, and loses it", patient=False) as stop:
            report = cache_labels(data, store, teachers, subset=ids, progress=True, stop=stop, ranks=ranks, **options)
    except KeyboardInterrupt:
        how = "what is committed is kept; give the same command again to go on"
        raise Interrupted(f"interrupted: {how}", stop.signum or signal.SIGINT) from None
    if not ranks.first:
        return
    click.echo(json.dumps(asdict(report)) if as_json else _describe(report))


def _goal(budget: float | None, keep: str | None, max_kl: str | None) -> Any:
    from fastlabel.labelling.codec_choice import Goal, parse_goal

    if budget is None and keep is None and max_kl is None:
        return None
    return Goal(
        budget,
        None if keep is None else parse_goal(keep, "--keep-information"),
        None if max_kl is None else parse_goal(max_kl, "--max-kl"),
    )


def _name_other_gpus(device: str | None) -> None:
    """Say how to use all GPUs of a machine that has several, where one is used because none was chosen."""
    import torch

    if device in (None, "auto", "cuda") and torch.cuda.device_count() > 1:
        click.echo(torchrun_line(torch.cuda.device_count(), sys.argv[1:]), err=True)


def torchrun_line(num_gpus: int, arguments: Sequence[str]) -> str:
    """The command that labels on all GPUs of this machine."""
    command = f"torchrun --nproc-per-node {num_gpus} -m fastlabel.cli.main {shlex.join(arguments)}"
    return f"this machine has {num_gpus} GPUs, one of which labels; all of them do with: {command}"


def _read_subset(path: Path) -> list[int]:
    from fastlabel.errors import InputError

    try:
        ids = [int(line) for line in path.read_text().split()]
    except ValueError as error:
        raise InputError(f"{path} must list sample indices, one whole number a line: {error}") from error
    if not ids or max(ids) >= 1 << 63:
        raise InputError(f"{path} must list sample indices of the dataset; it has {f'{max(ids)}' if ids else 'none'}")
    return ids


def _describe(report: CacheReport) -> str:
    what = (
        f"{report.crops:,} crops ({report.samples:,} samples x {report.views} views) by {', '.join(report.teachers)}, "
        f"top {report.k} of {report.num_classes} classes"
    )
    if report.dry_run:
        return (
            f"dry run: {report.store} would hold {what}: about {report.bytes_on_disk:,} bytes in {report.units} units, "
            f"about {duration(report.seconds)} to label what is missing here{_between(report)}"
            f"{_table(report)}"
        )
    if not report.crops_done:
        return f"{report.store} is complete: {what}; {report.bytes_on_disk:,} bytes"
    rate = report.crops_done / max(report.seconds, 1e-9)
    return (
        f"{report.store}: {what}; labelled {report.crops_done:,} crops in {duration(report.seconds)} "
        f"({rate:,.0f} crops/s), {report.bytes_on_disk:,} bytes"
    )


def _table(report: CacheReport) -> str:
    """What else would cost what."""
    from fastlabel.labelling.codec_choice import frontier

    return "".join(f"\n  {choice}" for choice in frontier(list(report.choices)))


def _between(report: CacheReport) -> str:
    """How sure a dry run is of its time."""
    if report.seconds_between is None:
        return " (a rough guess: too few batches to measure)"
    return f" (between {duration(report.seconds_between[0])} and {duration(report.seconds_between[1])})"
