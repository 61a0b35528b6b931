"""Recipes by name: what the authors of a paper train a student with, as options of train-student.

Each is a small TOML file in `named/`: `title`, `source`, `labels` (options of cache-labels that make the labels it goes
with) and a table `options`. A file of one's own is taken as well. docs/recipes.md says what differs from the authors'.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlabel.errors import InputError
from fastlabel.system.regular_files import read_regular

NAMES = ("sre2l", "lpqld", "rded", "hald", "fkd", "paper")
LARGEST_FILE = 1 << 16
_TEXTS = ("title", "source", "labels")
_NUMBER = (int, float)
# What a recipe may set, and of which types; of these, Recipe has the first ones.
_TRAINING: dict[str, tuple[type, ...]] = {
    "epochs": (int,),
    "batch-size": (int,),
    "optimizer": (str,),
    "lr": _NUMBER,
    "momentum": _NUMBER,
    "nesterov": (bool,),
    "weight-decay": _NUMBER,
    "schedule": (str,),
    "warmup": _NUMBER,
    "step-factor": _NUMBER,
    "step-fraction": _NUMBER,
    "label-smoothing": _NUMBER,
    "ema": _NUMBER,
    "amp": (bool,),
    "compile": (bool,),
}
_USE: dict[str, tuple[type, ...]] = {
    "views-per-image": (int,),
    "loss": (str,),
    "temperature": (*_NUMBER, str),
    "label-temperature": (*_NUMBER, str),
    "student-temperature": (*_NUMBER, str),
    "temperature-squared": (bool,),
    "keep": (int,),
    "tail": (str,),
    "hard-weight": _NUMBER,
    "phases": (str,),
}
OPTIONS = _TRAINING | _USE


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe of a paper.

    Attributes:
        name: of the recipe, or the path of its file.
        title, source: what it is, and where it is from.
        labels: options of cache-labels for the labels that it goes with.
        options: of train-student, by their names on the command line, without the dashes before.
    """

    name: str
    title: str
    source: str
    labels: str
    options: Mapping[str, Any]

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Arguments of `StudentConfig`, `recipe` among them; `changes` are options with underscores, and win.

        `temperature` stands for those of labels and student. InputError for an option that there is not.
        """
        from fastlabel.train.recipes import Recipe

        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        for name in changed:
            _check_known(f"recipe {self.name}", name)
        given = {**_both_temperatures(self.options), **_both_temperatures(changed)}
        values = {name.replace("-", "_"): value for name, value in given.items()}
        training = {name.replace("-", "_") for name in _TRAINING} & set(values)
        if "epochs" not in values:
            raise InputError(f"recipe {self.name} does not say how many epochs: give epochs")
        return {"recipe": Recipe(**{name: values.pop(name) for name in training}), **values}

    def scaled(self, epochs: int) -> dict[str, Any]:
        """`arguments` for another number of epochs, with phases, warmup and steps of temperatures in proportion.

        Phases that are left no epoch are gone; the last boundary is exact.
        """
        from fastlabel.labels.schedules import Phases, TemperatureSchedule

        share = epochs / self.options.get("epochs", epochs)
        changes: dict[str, Any] = {"epochs": epochs}
        if "warmup" in self.options:
            changes["warmup"] = self.options["warmup"] * share
        if "phases" in self.options:
            changes["phases"] = Phases.parse(self.options["phases"], self.options["epochs"]).scaled(epochs).plain()
        for name in ("label-temperature", "student-temperature", "temperature"):
            if name in self.options:
                schedule = TemperatureSchedule.parse(name, self.options[name])
                changes[name.replace("-", "_")] = replace(schedule, every=max(1, round(schedule.every * share))).plain()
        return self.arguments(**changes)


def find_recipe(name: str | Path) -> NamedRecipe:
    """The recipe of a name, or of the path of a TOML file.

    Raises InputError for another name, and for a file that is no recipe: each with what there is.
    """
    text = str(name)
    if text in NAMES:
        return _read(text, Path(__file__).parent / "named" / f"{text}.toml")
    if text.endswith(".toml"):
        return _read(text, Path(text))
    raise InputError(f"unknown recipe {text!r}: known are {', '.join(NAMES)}, or give a FILE.toml")


def _read(name: str, path: Path) -> NamedRecipe:
    try:
        content = tomllib.loads(read_regular(path, LARGEST_FILE).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"recipe {name} cannot be read: {' '.join(str(error).split())}") from error
    for key in content:
        if key not in (*_TEXTS, "options"):
            raise InputError(f"recipe {name} has {key!r}, expected {', '.join(_TEXTS)} and a table [options]")
    texts = {key: content.get(key, "") for key in _TEXTS}
    options = content.get("options")
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(options, dict) or not options:
        raise InputError(f"recipe {name} needs texts {', '.join(_TEXTS)} and a table [options] with options in it")
    for option, value in options.items():
        _check_known(f"recipe {name}", option)
        _check_type(f"recipe {name}", option, value)
    if options.get("epochs", 1) < 1:
        raise InputError(f"recipe {name} has {options['epochs']} epochs, expected 1 or more")
    if "phases" in options and "epochs" not in options:
        raise InputError(f"recipe {name} has phases, and does not say of how many epochs: give epochs too")
    return NamedRecipe(name, options=options, **texts)


def _check_known(what: str, option: str) -> None:
    if option not in OPTIONS:
        raise InputError(f"{what} sets {option!r}, which a recipe cannot: it may set {', '.join(OPTIONS)}")


def _check_type(what: str, option: str, value: Any) -> None:
    kinds = OPTIONS[option]
    # True is an int to Python, and no number of epochs.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        expected = " or ".join(dict.fromkeys(words[kind] for kind in kinds if not (kind is int and float in kinds)))
        raise InputError(f"{what} sets {option} to {value!r}, expected {expected}")


def _both_temperatures(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same with temperatures of labels and student, where one is given for both."""
    values = dict(options)
    both = values.pop("temperature", None)
    if both is None:
        return values
    return {"label-temperature": both, "student-temperature": both, **values}


def typed(name: str, value: Any) -> str:
    """An option and its value as one types them."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"
