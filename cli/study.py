"""fastlabel study NAME"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlabel.studies.registry import STUDIES, find_study

if TYPE_CHECKING:
    from fastlabel.studies.study import Axis, Study

COMMANDS = {"experts": "Train experts on hard labels, images in memory; a checkpoint after every epoch."} | STUDIES


class Studies(click.Group):
    """Makes the command of a study from its axes, when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "experts":
            return experts_command
        return _command_of(find_study(cmd_name)) if cmd_name in STUDIES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command("study", cls=Studies)
def command() -> None:
    """The experiments of "A Label is Worth a Thousand Images in Dataset Distillation" (arXiv 2406.10485).

    `experts` trains the experts that all others read their labels from. A study that is given again skips the cells
    that are done, so a grid can grow.
    """


def _files(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.argument("data", metavar="DATA.beton", type=click.Path(exists=True, dir_okay=False)),
            click.option(
                "--val", required=True, type=click.Path(exists=True, dir_okay=False), help="Images to test on."
            ),
            click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of the results."),
        ]
    ):
        function = option(function)
    return function


_RUN = [
    click.option("--augment", default="dsa", show_default=True, help="dsa, none, or parts of dsa such as crop+flip."),
    click.option("--amp", is_flag=True, help="Convolutions and products in bfloat16."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--workers", "num_workers", type=click.IntRange(0), default=0, help="Decoding threads.  [default: all cores]"
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
]


@_files
@click.option(
    "--arch", default="zca:convnet-d3", show_default=True, help="A network; zca: before it whitens the images."
)
@click.option("--epochs", type=click.IntRange(1), required=True)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Experts, each from its own seed.")
@click.option("--lr", type=float, default=1e-3, show_default=True)
@click.option("--momentum", type=float, default=0.0, show_default=True)
@click.option("--weight-decay", type=float, default=0.0, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--size", type=click.IntRange(1), help="Side of the images in pixels.  [default: their own]")
@click.option("--keep-every", type=click.IntRange(1), default=1, show_default=True, help="Keep every n-th epoch.")
def _experts(
    as_json: bool,
    epochs: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    batch_size: int,
    amp: bool,
    **options: Any,
) -> None:
    """Train experts on hard labels, images in memory; a checkpoint after every epoch.

    OUT/expert-0, ... get epoch-NNN.pt and metrics.jsonl. The same command goes on where an earlier one was stopped.
    """
    from fastlabel.cli.training_options import ProgressBar
    from fastlabel.studies.experts import PAPER_RECIPE, ExpertsConfig, train_experts

    recipe = replace(
        PAPER_RECIPE,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        amp=amp,
    )
    with ProgressBar() as bar:
        runs = train_experts(ExpertsConfig(recipe=recipe, **options), bar)
    if as_json:
        click.echo(json.dumps({"out": str(options["out"]), "experts": [run[-1] for run in runs]}))
        return
    for number, run in enumerate(runs):
        click.echo(f"expert {number}: {run[-1]['val_accuracy']:.2%} of the test images after {run[-1]['epoch']} epochs")


for _option in reversed(_RUN):
    _experts = _option(_experts)
experts_command = click.command("experts")(_experts)


def _command_of(study: Study) -> click.Command:
    def run(as_json: bool, **options: Any) -> None:
        _run(study, as_json, options)

    function: Any = _files(run)
    text = f"{STUDIES[study.name]}\n\nOUT gets results.jsonl, results.csv, report.md and figure.png."
    rate = [] if any(axis.name == "lr" for axis in study.axes) else [_RATE]
    for option in reversed([*_STUDENTS, *rate, *_RUN]):
        function = option(function)
    for axis in reversed(study.axes):
        function = _axis_option(axis)(function)
    return click.command(study.name, help=text)(function)


def _parameter(axis: Axis) -> str:
    # With a prefix: "class" is no name that Python takes.
    return f"axis_{axis.name.replace('-', '_')}"


def _axis_option(axis: Axis) -> Callable[[Any], Any]:
    values = [f"{value:g}" if axis.type is float else str(value) for value in axis.default or ()]
    known = f"  [default: {', '.join(values)}]" if values and "default:" not in axis.help else ""
    return click.option(
        f"--{axis.name}", _parameter(axis), type=axis.type, multiple=True, help=axis.help + known + "  Repeatable."
    )


_STUDENTS = [
    click.option(
        "--experts", required=True, type=click.Path(file_okay=False), help="Folder of `study experts` or train-teacher."
    ),
    click.option("--arch", help="Network of the students.  [default: that of the experts]"),
    click.option("--epochs", type=click.IntRange(1), default=3000, show_default=True, help="Of each student."),
    click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True),
    click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True),
    click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Students in each cell."),
    click.option("--same-images", is_flag=True, help="All repeats on the same images, as in the paper."),
]


_RATE = click.option("--lr", type=float, help="[default: 0.01]")


def _run(study: Study, as_json: bool, options: dict[str, Any]) -> None:
    from fastlabel.studies.config import StudyConfig, student_recipe
    from fastlabel.studies.runner import run_study

    grid = {axis.name: options.pop(_parameter(axis)) for axis in study.axes}
    if len(grid.get("lr", ())) == 1 and not grid["recipe"]:  # one rate is the recipe's, not an axis of cells
        options["lr"] = grid.pop("lr")[0]
    options.setdefault("lr", None)
    recipe = student_recipe(*(options.pop(name) for name in ("epochs", "optimizer", "lr", "batch_size", "amp")))
    config = StudyConfig(recipe=recipe, grid={name: values for name, values in grid.items() if values}, **options)
    outcome = run_study(study, config, _given(), progress=sys.stderr.isatty() or not as_json)
    if as_json:
        click.echo(json.dumps(outcome.to_dict()))
        return
    for table in outcome.report.tables:
        click.echo(f"{table.caption}\n\n{table.text()}\n")
    for finding in outcome.report.findings:
        click.echo(f"* {finding}")
    click.echo(f"\n{outcome.done} students trained, {outcome.skipped} were there; report: {outcome.out / 'report.md'}")


def _given() -> str:
    """The command as it was given, without the folders that files lie in."""
    return shlex.join(["fastlabel", *map(_without_folder, sys.argv[1:])])


def _without_folder(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{Path(value).name}" if "/" in value else word
