"""Options that say how a student uses its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fastlabel.labels.choices import LOSSES, TAILS

Command = TypeVar("Command", bound=Callable[..., Any])

_SCHEDULE = "A number; step:20,0.7,30,2 is 20 times 0.7 after each 30 epochs, at least 2; cosine:20,2 anneals."
_USE = [
    click.option(
        "--loss",
        type=click.Choice(LOSSES),
        default="soft-ce",
        show_default=True,
        help="Of the student's logits against the labels: docs/recipes.md.",
    ),
    click.option(
        "--temperature", metavar="T", help=f"Divides teacher's and student's logits. {_SCHEDULE}  [default: 1]"
    ),
    click.option("--label-temperature", metavar="T", help="The teacher's alone.  [default: --temperature]"),
    click.option("--student-temperature", metavar="T", help="The student's alone.  [default: --temperature]"),
    click.option(
        "--temperature-squared", is_flag=True, help="Multiply soft-ce and kl by the student's squared temperature."
    ),
    click.option(
        "--keep",
        metavar="K",
        type=click.IntRange(1),
        help="Use the K most likely classes.  [default: all that are kept]",
    ),
    click.option(
        "--tail",
        type=click.Choice(TAILS),
        default="uniform",
        show_default=True,
        help="The other classes: an even share each; nothing, the kept ones divided by their sum; nothing.",
    ),
    click.option(
        "--hard-weight",
        type=float,
        default=0.0,
        show_default=True,
        help="Share of the cross-entropy with the hard label, 0 to 1.",
    ),
    click.option(
        "--phases", metavar="PHASES", help="Labels by epochs, such as soft:75,hard:150,soft:75.  [default: soft]"
    ),
]


def label_use_options(command: Command) -> Command:
    """Add the options of how labels are used; `take_temperatures` reads some of them."""
    for option in reversed(_USE):
        command = option(command)
    return command


def take_temperatures(options: dict[str, Any]) -> None:
    """Make one temperature for labels and student to those of each, which were not given themselves."""
    both = options.pop("temperature")
    for name in ("label_temperature", "student_temperature"):
        if options[name] is None:
            options[name] = 1.0 if both is None else both
