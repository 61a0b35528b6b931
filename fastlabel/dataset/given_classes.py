"""--classes: a source with the class numbers of another dataset, such as those of its training set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastlabel.dataset.class_names import MOST_BYTES, read_class_names
from fastlabel.dataset.sources import Source, with_files
from fastlabel.errors import DatasetError, InputError
from fastlabel.system.regular_files import read_regular


class Renumbered:
    """A source whose classes are numbered as `names` are. A class that only `names` have may be empty."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        place = {name: number for number, name in enumerate(names)}
        strange = [name for name in source.classes if name not in place]
        if strange:
            shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
            raise DatasetError(
                f"{len(strange)} of the source's {len(source.classes)} classes are not among the {len(names)} given: "
                f"{shown}"
            )
        self._source, self.classes = source, list(names)
        self._numbers = [place[name] for name in source.classes]
        self.write_mode, self.not_images = source.write_mode, source.not_images

    def __len__(self) -> int:
        return len(self._source)

    def name(self, row: int) -> str:
        return self._source.name(row)

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        image, target = self._source.sample(row)
        return image, self._number(target)

    def file(self, row: int) -> tuple[bytes, int]:
        data, target = with_files(self._source).file(row)
        return data, self._number(target)

    def _number(self, target: int) -> int:
        return self._numbers[target] if 0 <= target < len(self._numbers) else target


def given_names(classes: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Class names in order: a list, those of a .beton file, or the lines of a text file. InputError for none."""
    if not isinstance(classes, (str, os.PathLike)):
        names = list(classes)
    elif Path(classes).suffix == ".beton":
        names = list(read_class_names(Path(classes)) or ())
    else:
        try:
            names = read_regular(Path(classes), MOST_BYTES).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the class names in {classes} cannot be read: {error}") from error
        names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{str(classes)[:80]} must give class names, one for each class, none twice")
    return names
