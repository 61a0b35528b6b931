"""The class names that `write-dataset` keeps beside a .beton file."""

from __future__ import annotations

import json
from pathlib import Path

from fastlabel.errors import DatasetError
from fastlabel.system.regular_files import read_regular

MOST_BYTES = 64 << 20  # 512 bytes for each of 131,072 classes


def class_names_path(path: Path) -> Path:
    """Where the class names of a .beton file are kept."""
    return path.with_name(path.name + ".json")


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """The class names of a .beton file, by class number; None without a file of them. UTF-8, whatever the locale.

    Raises:
        DatasetError: there is such a file, but it cannot be read or holds no class names.
    """
    kept = class_names_path(path)
    try:
        content = json.loads(read_regular(kept, MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(kept, f"{error or type(error).__name__}") from error
    names = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _broken(kept, 'expected {"classes": [a name for each class, ...]}')
    return tuple(names)


def _broken(kept: Path, reason: str) -> DatasetError:
    return DatasetError(f"the class names in {kept} cannot be read: {reason}; correct that file, or remove it")
