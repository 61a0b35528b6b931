"""Options that say how views crop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fastlabel.views import ViewSpec

_NAMES = ("scale", "ratio", "padding", "fraction")


class _Pair(click.ParamType):
    """Two numbers with a comma or a slash between them."""

    def __init__(self, separator: str, number: Callable[[str], Any]) -> None:
        self.name, self._separator, self._number = f"LOW{separator}HIGH", separator, number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(self._number, value.split(self._separator))
        except ValueError:
            self.fail(f"{value!r} is not two numbers with {self._separator!r} between them", param, ctx)
        return low, high


def view_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add them to a command; `take_views` reads what they gave."""
    options = (
        click.option(
            "--view-policy",
            "policy",
            metavar="NAME|FILE",
            default="random-resized-crop",
            show_default=True,
            help="random-resized-crop, pad-crop, center or identity; or a .toml or .json file (docs/labelling.md).",
        ),
        click.option("--flip/--no-flip", default=None, help="Mirror half of the random crops. [default: flip]"),
        click.option(
            "--scale", type=_Pair(",", float), metavar="LOW,HIGH", help="Area of random crops. [default: 0.08,1]"
        ),
        click.option(
            "--ratio", type=_Pair(",", float), metavar="LOW,HIGH", help="Their width / height. [default: 3/4 to 4/3]"
        ),
        click.option("--padding", type=click.IntRange(min=0), metavar="PIXELS", help="Of pad-crop. [default: 4]"),
        click.option(
            "--fraction", type=_Pair("/", int), metavar="N/D", help="Of center, of the shorter side. [default: 7/8]"
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def take_views(options: dict[str, Any]) -> ViewSpec:
    """What they ask for, taken out of a command's options; an option wins over a file."""
    from fastlabel.views import ViewSpec

    return ViewSpec.of(options.pop("policy")).changed(**{name: options.pop(name) for name in _NAMES})
