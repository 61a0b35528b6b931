"""Options that mix the crops of pairs of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fastlabel.views import Mixing

_NAMES = ("cutmix", "mixup", "cutmix_alpha", "mixup_alpha", "mix_block", "mix_shared")
_SHARE = click.FloatRange(min=0, max=1)


def mixing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add them to a command; `take_mixing` reads what they gave."""
    options = (
        click.option("--cutmix", type=_SHARE, metavar="P", help="Swap a box with another crop, so often."),
        click.option("--mixup", type=_SHARE, metavar="P", help="Blend with another crop, so often."),
        click.option("--cutmix-alpha", type=float, metavar="A", help="lambda ~ Beta(A, A) of CutMix. [default: 1]"),
        click.option("--mixup-alpha", type=float, metavar="A", help="lambda ~ Beta(A, A) of MixUp. [default: 1]"),
        click.option("--mix-block", type=int, metavar="N", help="Samples among which pairs are drawn. [default: 64]"),
        click.option("--mix-shared", is_flag=True, help="One lambda and box for the whole block, as SRe2L has it."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def take_mixing(options: dict[str, Any], in_file: bool) -> Mixing | None:
    """What they ask for, taken out of a command's options; `in_file` says that a file of the views mixes them.

    InputError where nothing is mixed, but a detail is given, and where a file and options both say it.
    """
    from fastlabel.errors import InputError
    from fastlabel.views import Mixing

    values = {name: options.pop(name) for name in _NAMES}
    said = [name for name in _NAMES if values[name] is not None and values[name] is not False]
    given = {name.removeprefix("mix_"): values[name] for name in said}
    if said and in_file:
        raise InputError("the file of the view policy says how views are mixed: say all of it there, or all by options")
    if not values["cutmix"] and not values["mixup"]:
        if said:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in said)
            raise InputError(f"{named} says how views are mixed, and none is: give --cutmix P or --mixup P too")
        return None
    return Mixing.of(**given)
