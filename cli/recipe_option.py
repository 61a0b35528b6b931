"""--recipe: the options of a named recipe, where the command line does not give them itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fastlabel.labels.choices import USES
from fastlabel.train.named_recipes import NAMES, find_recipe, typed

if TYPE_CHECKING:
    from fastlabel.train.named_recipes import NamedRecipe

Command = TypeVar("Command", bound=Callable[..., Any])


def recipe_option(command: Command) -> Command:
    """Add --recipe; `apply_recipe` then reads it."""
    return click.option(
        "--recipe",
        "named",
        metavar="NAME",
        is_eager=True,
        callback=_take,
        help=f"{', '.join(NAMES)}, or a FILE.toml: options that others train with, where they are not given here. "
        "docs/recipes.md has what each sets.",
    )(command)


def _take(ctx: click.Context, param: click.Parameter, value: str | None) -> NamedRecipe | None:
    if value is None:
        return None
    named = find_recipe(value)
    defaults = {name.replace("-", "_"): setting for name, setting in named.options.items()}
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return named


def apply_recipe(ctx: click.Context, options: dict[str, Any]) -> None:
    """Say what a recipe sets, and take its values back where the command line decides otherwise.

    That is a temperature for both over one of each, and hard labels over the use of soft ones.
    """
    named: NamedRecipe | None = options.pop("named")
    if named is None:
        return
    given = {name for name in options if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    dropped = {"label_temperature", "student_temperature"} if "temperature" in given else set()
    if options["labels"] == "hard":
        dropped = {"temperature", *USES}
    from fastlabel.system.ranks import Ranks

    set_here, changed = [], []
    for name, value in named.options.items():
        parameter = name.replace("-", "_")
        if parameter in given:
            changed.append(typed(name, options[parameter]))
        elif parameter in dropped:
            options[parameter] = None if parameter.endswith("temperature") else USES[parameter]
        else:
            set_here.append(typed(name, value))
    lines = [f"recipe {named.name}: {named.title}. {named.source}" if named.title else f"recipe {named.name}"]
    lines.append(f"  sets {' '.join(set_here)}")
    lines += [f"  the command line instead: {' '.join(changed)}"] if changed else []
    lines += [f"  goes with labels of cache-labels {named.labels}"] if named.labels else []
    if Ranks.current().first:
        click.echo("\n".join(lines), err=True)
