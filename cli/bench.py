"""fastlabel bench [QUESTION]"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlabel.benchmarks.registry import QUESTIONS
from fastlabel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastlabel.benchmarks.question import Answer, Setup

HELP = "Measure speed and size here, against the peers, every comparison in one run.\n\n\b\nQUESTION is one of\n"
HELP += "\n".join(f"  {name:8} {text}" for name, text in QUESTIONS.items())
HELP += (
    "\n  all      Every one of them, one after another. [default]\n\nWithout --photos the images are made here, and "
)
HELP += "the output says so. Ratios hold within one run only."


@click.command("bench", help=HELP)
@click.argument("question", metavar="[QUESTION]", type=click.Choice([*QUESTIONS, "all"]), default="all")
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT", help="Keep figures and machine."
)
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.png", help="Draw the result.")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="A folder of images, or of class folders. [default: photo-like images made here]",
)
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Of each comparison. [default: the question's]")
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that everything runs; the figures mean nothing.")
def command(
    question: str, out: Path | None, figure: Path | None, photos: Path | None, rounds: int | None, quick: bool
) -> None:
    from fastlabel.benchmarks.harness import machine
    from fastlabel.benchmarks.question import Setup, draw

    for path in (out, figure):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path} cannot be a file: expected a name inside an existing folder")
    names = list(QUESTIONS) if question == "all" else [question]
    with tempfile.TemporaryDirectory(prefix="fastlabel-bench-") as folder:
        answers = _ask(names, Setup(Path(folder), photos, rounds, quick))
    where = machine()
    click.echo(f"{where['cpu']}, {where['cores']} cores, GPU: {where['gpu'] or 'none'}; {where['date']}")
    click.echo(", ".join(f"{name} {number}" for name, number in where["versions"].items()))
    if out is not None:
        _write(out, where, {name: answer.to_dict() for name, answer in answers.items()}, quick)
    if figure is not None:
        draw(figure, answers)


def _ask(names: Sequence[str], setup: Setup) -> dict[str, Answer]:
    """The answers, each printed as soon as it is known."""
    answers = {}
    for name in names:
        click.echo(f"measuring: {name}", err=True)
        answers[name] = import_module(f"fastlabel.benchmarks.{name}").answer(setup)
        click.echo("\n".join((f"== {name} ==", *answers[name].lines(), "")))
    return answers


def _write(out: Path, where: Mapping[str, object], answers: Mapping[str, Mapping[str, object]], quick: bool) -> None:
    """One JSON object: of the only question, or of all by name."""
    result = next(iter(answers.values())) if len(answers) == 1 else {"questions": answers}
    out.write_text(json.dumps({"machine": where, "quick": quick, **result}, indent=1) + "\n")
