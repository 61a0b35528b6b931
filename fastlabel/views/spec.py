"""A view policy as one says it, before its size is known: by name, by options, or in a small file."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

from fastlabel.errors import InputError
from fastlabel.system.arguments import one_of, pair
from fastlabel.system.regular_files import read_regular
from fastlabel.views.mixing import Mixing
from fastlabel.views.pixels import PixelOperations
from fastlabel.views.policy import KINDS, ViewPolicy

OWNERS = {"scale": "random-resized-crop", "ratio": "random-resized-crop", "padding": "pad-crop", "fraction": "center"}
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class ViewSpec:
    """A name and what differs from the usual parameters of that policy; None is as usual.

    Attributes:
        size: side of a crop in pixels; None for that of the first teacher's images.
        scale, ratio: shares of the area, and width / height, of a random-resized-crop.
        padding: pixels, of a pad-crop. fraction: numerator and denominator, of a center crop.
        file: where it was read, which errors name.
    """

    name: str = "random-resized-crop"
    size: int | None = None
    seed: int | None = None
    flip: bool | None = None
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    padding: int | None = None
    fraction: tuple[int, int] | None = None
    pixels: PixelOperations | None = None
    mixing: Mixing | None = None
    file: Path | None = field(default=None, compare=False)

    def policy(self, own_size: int) -> ViewPolicy:
        """The policy; of crops of `own_size` where no size is said. InputError for values that do not fit together."""
        try:
            return self._policy(own_size)
        except InputError as error:
            if self.file is None:
                raise
            raise InputError(f"view policy {self.file}: {error}") from error

    def _policy(self, own_size: int) -> ViewPolicy:
        given: dict[str, Any] = {name: getattr(self, name) for name in OWNERS if getattr(self, name) is not None}
        for name in given:
            if OWNERS[name] != self.name:
                raise InputError(f"{name} is a parameter of {OWNERS[name]} views, and these are {self.name}")
        size, seed = own_size if self.size is None else self.size, 0 if self.seed is None else self.seed
        usual = ViewPolicy.from_name(self.name, size, seed, True if self.flip is None else self.flip)
        if given:
            make: Callable[..., ViewPolicy] = getattr(ViewPolicy, self.name.replace("-", "_"))
            usual = replace(make(size, seed, **given), flip=usual.flip)
        return replace(usual, pixels=self.pixels, mixing=self.mixing)

    def changed(self, **given: Any) -> ViewSpec:
        """With those values that are not None in place of its own."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @classmethod
    def of(cls, name_or_file: str | os.PathLike[str]) -> ViewSpec:
        """Of the name of a policy, or of what a TOML or JSON file says. InputError for one that is neither."""
        if str(name_or_file) in KINDS:
            return cls(str(name_or_file))
        path = Path(name_or_file)
        if path.suffix not in (".toml", ".json"):
            raise InputError(
                f"unknown view policy {str(name_or_file)!r}; choose one of {', '.join(KINDS)}, or give a .toml or "
                ".json file"
            )
        try:
            text = read_regular(path, MOST_BYTES).decode()
            data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
            return replace(cls.from_dict(data), file=path)
        except OSError as error:
            raise InputError(f"view policy {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError, InputError) as error:
            raise InputError(f"view policy {path}: {error}") from error

    @classmethod
    def from_dict(cls, data: Any) -> ViewSpec:
        """Of values by name; `mixing` and `pixels` are tables of what `Mixing.of` and `PixelOperations.of` take."""
        one_of("a view policy", data, Mapping, "its values by name")
        values = _known("a view policy", data, [one.name for one in fields(cls) if one.name != "file"])
        for name in ("scale", "ratio", "fraction"):
            if name in values:
                values[name] = pair(name, values[name])
        for name, kind in (("mixing", Mixing), ("pixels", PixelOperations)):
            if name in values:
                one_of(name, values[name], Mapping, "a table of values by name")
                make: Callable[..., Any] = kind.of
                given = _known(name, values[name], list(signature(make).parameters))
                values[name] = make(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
        return cls(**values)


def _known(owner: str, data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    for name in data:
        if name not in names:
            raise InputError(f"{owner} has no {name!r}; it has {', '.join(names)}")
    return dict(data)
