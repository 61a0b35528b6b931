"""Class maps: which class of a teacher each class of a dataset is."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlabel.errors import InputError

IN_ORDER = "in-order"  # in place of a file: class i of the dataset is class i of the teacher, whatever their names
LARGEST = 64 << 20  # bytes
_SEPARATOR = re.compile(r"\s*(?:\t|->|:)\s*")


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset or of a teacher: who has them, how many, and their names if they have any."""

    owner: str
    count: int
    names: tuple[str, ...] = ()

    def number(self, name: object) -> int:
        """The number of a class that is given by name or by number. InputError where that is not one class.

        A whole number is a number; text is a name, and only where no class has that name a number.
        """
        text = str(name).strip()
        by_number = int(text) if re.fullmatch(r"\d{1,18}", text) and int(text) < self.count else None
        by_name = [index for index, known in enumerate(self.names) if known == text]
        if type(name) is not int and len(by_name) > 1:
            raise InputError(
                f"{text!r} is more than one class of {self.owner} ({', '.join(map(str, by_name))}): "
                "give a JSON list, with the number of the teacher's class of each of the dataset's"
            )
        if type(name) is not int and by_name:
            return by_name[0]
        if by_number is not None:
            return by_number
        if type(name) is int and self.names:
            raise InputError(f"{self.owner} has no class {text!r}: give its name or a number below {self.count}")
        if not self.names:
            raise InputError(f"{self.owner} has the classes 0 to {self.count - 1}, without names: {text!r} is none")
        near = difflib.get_close_matches(text, self.names, n=3, cutoff=0.5)
        raise InputError(
            f"{self.owner} has no class {text!r}: "
            + (f"did you mean {', '.join(near)}?" if near else f"give its name or a number below {self.count}")
        )


def read_class_map(path: str | os.PathLike[str]) -> list[tuple[object, object]]:
    """Pairs of a class of the dataset and the teacher's, each by number or name.

    A file of JSON is an object, or a list of the teacher's class for each of the dataset's in order. Else each line is
    a pair, with a tab, a colon or an arrow between, or a space where neither name has one; # starts a comment line.

    Raises InputError for a file that is neither.
    """
    path = Path(path)
    if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST):
        raise InputError(f"the class map {path} must be a file of at most {LARGEST:,} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the class map {path} cannot be read: {error}") from error
    if text.lstrip().startswith(("{", "[")):
        try:
            return pairs_of(json.loads(text, object_pairs_hook=_without_repeats))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the class map {path} is not JSON: {error}") from error
    return [_pair(path, number, line) for number, line in enumerate(text.splitlines(), 1) if _says_something(line)]


def pairs_of(value: Mapping[Any, Any] | Sequence[Any]) -> list[tuple[object, object]]:
    """Pairs of a mapping from the dataset's classes, or of a sequence in their order."""
    return list(value.items() if isinstance(value, Mapping) else enumerate(value))


def resolve_class_map(pairs: Sequence[tuple[object, object]], dataset: Classes, teacher: Classes) -> tuple[int, ...]:
    """The teacher's class of each of the dataset's. InputError unless each has one, and no two the same."""
    columns: dict[int, int] = {}
    for key, value in pairs:
        ours = dataset.number(key)
        if ours in columns:
            raise InputError(f"the class map names class {key} of {dataset.owner} twice")
        columns[ours] = teacher.number(value)
    missing = [index for index in range(dataset.count) if index not in columns]
    if missing:
        shown = ", ".join(_shown(dataset, index) for index in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"the class map lacks {len(missing)} of the {dataset.count} classes of {dataset.owner}: {shown}"
        )
    shared = [column for column, times in Counter(columns.values()).items() if times > 1]
    if shared:
        raise InputError(
            f"the class map gives class {_shown(teacher, shared[0])} of {teacher.owner} to more than one class of "
            f"{dataset.owner}: each needs its own"
        )
    return tuple(columns[index] for index in range(dataset.count))


def _shown(classes: Classes, index: int) -> str:
    return f"{index} ({classes.names[index]})" if index < len(classes.names) else str(index)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _pair(path: Path, number: int, line: str) -> tuple[object, object]:
    parts = _SEPARATOR.split(line.strip())
    if len(parts) == 1:
        parts = line.split()
    if len(parts) != 2 or not all(parts):
        raise InputError(
            f"line {number} of the class map {path} must be a class of the dataset, a tab, colon or arrow (->), and a "
            f"class of the teacher; it is {line.strip()[:60]!r}"
        )
    return parts[0], parts[1]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"class {repeated[0]!r} occurs twice")
    return dict(pairs)
