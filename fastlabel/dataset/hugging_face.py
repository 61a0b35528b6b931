"""hf:PATH:SPLIT: a Hugging Face dataset, as Parquet files or as `save_to_disk` writes it. Read with pyarrow alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlabel.dataset.arrow_files import ArrowFile, Rows, arrow, open_arrow_file
from fastlabel.dataset.image_files import UnreadableImageError, read_bytes, read_image_bytes
from fastlabel.errors import DatasetError, InputError
from fastlabel.system.regular_files import read_regular

USUAL_IMAGES = ("image", "img", "jpg", "png", "webp")  # where no features say which column is the image
USUAL_TARGETS = ("label", "labels", "cls", "target", "fine_label")
MOST_STATE = 64 << 20
MOST_CLASSES = 1 << 20  # of a column that is numbers alone: more are ids or times


class _Columns(NamedTuple):
    image: str
    target: str
    classes: list[str]


class HuggingFaceSource:
    """Samples in the order of the files' names, and within a file in its own."""

    write_mode = "jpg"

    def __init__(self, text: str) -> None:
        path, split, column = _parts(text)
        self._text = text
        self._files = [open_arrow_file(file) for file in _find(text, Path(path), split)]
        schemas = {str(file.schema.remove_metadata()) for file in self._files}
        if len(schemas) > 1:
            raise DatasetError(f"{text}: its {len(self._files)} files have other columns than each other")
        choices = [_choose(text, file, column) for file in self._files]
        self._columns = choices[0]
        for file, chosen in zip(self._files, choices, strict=True):
            if chosen != self._columns:
                raise DatasetError(f"{text}: {file.path} has other classes or columns than {self._files[0].path}")
        self._root = Path(path) if Path(path).is_dir() else Path(path).parent
        self.not_images: list[str] = []
        targets = [_targets(file, self._columns.target) for file in self._files]
        self.classes, self._targets = _numbered(text, self._columns, targets)
        self._ends = np.cumsum([file.num_rows for file in self._files])
        if not len(self._targets):
            raise DatasetError(f"{text} holds no samples")

    def __len__(self) -> int:
        return len(self._targets)

    def name(self, row: int) -> str:
        file, inside = self._place(row)
        return f"row {inside} of {file.path}"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        data, target = self.file(row)
        return read_image_bytes(data), target

    def file(self, row: int) -> tuple[bytes, int]:
        file, inside = self._place(row)
        return self._bytes(file.value(self._columns.image, inside)), int(self._targets[row])

    def _place(self, row: int) -> tuple[ArrowFile, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._files[number], row - (int(self._ends[number - 1]) if number else 0)

    def _bytes(self, value: Any) -> bytes:
        """Of an Image as Hugging Face stores it: {"bytes": ..., "path": ...}, or the bytes alone."""
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, bytes):
            return data
        if data is None and isinstance(path, str):
            return read_bytes(self._root / path)
        raise UnreadableImageError(f"its {self._columns.image} holds neither encoded bytes nor a path")


def _parts(text: str) -> tuple[str, str, str]:
    parts = text.split(":")[1:]
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InputError(
            f"{text}: expected hf:PATH:SPLIT, hf:PATH:SPLIT:COLUMN for classes of another column, or hf:FILE.parquet"
        )
    if len(parts) > 1 and Path(parts[0]).is_file():
        if len(parts) > 2:
            raise InputError(f"{text}: {parts[0]} is one file, expected hf:FILE or hf:FILE:COLUMN")
        return parts[0], "", parts[1]
    path, split, column = [*parts, "", ""][:3]
    return path, split, column


def _find(text: str, path: Path, split: str) -> list[Path]:
    """The files of a split."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{text}: {path} does not exist: download it first (hf download USER/NAME)")
    for folder in (path / split, path):
        if split and (folder / "state.json").is_file():
            return _saved(text, folder, split)
    if not split:
        raise InputError(f"{text}: which split? expected hf:{path}:SPLIT")
    found = _parquet_of(path, split)
    if not found:
        names = sorted({file.name for file in path.rglob("*.parquet")})
        there = f"; the Parquet files there: {', '.join(names[:5])}" if names else ""
        raise DatasetError(f"{text}: no {split}-*.parquet, {split}/*.parquet or {split}/state.json in {path}{there}")
    _check_shards(text, split, found)
    folders = sorted({str(file.parent) for file in found})
    if len(folders) > 1:
        raise InputError(f"{text}: {split} is in {len(folders)} folders, give one of them: {', '.join(folders[:5])}")
    return found


def _check_shards(text: str, split: str, found: list[Path]) -> None:
    """DatasetError where the names say that a file is missing, or that files of two writings lie side by side."""
    numbers = [re.fullmatch(rf"{re.escape(split)}-(\d+)-of-(\d+)\.parquet", file.name) for file in found]
    named = [match for match in numbers if match]
    counts = {int(match[2]) for match in named}
    if named and (len(named) < len(found) or len(counts) > 1 or len({match[1] for match in named}) < max(counts)):
        raise DatasetError(f"{text}: {len(found)} files are not one whole split, for example {found[0].name}")


def _parquet_of(path: Path, split: str) -> list[Path]:
    every = sorted(file for file in path.rglob("*.parquet") if file.is_file())
    named = [file for file in every if file.name == f"{split}.parquet" or file.name.startswith(f"{split}-")]
    return named or [file for file in every if file.parent.name == split]


def _saved(text: str, folder: Path, split: str) -> list[Path]:
    """The Arrow files of `save_to_disk`, in the order that its state gives."""
    try:
        state = json.loads(read_regular(folder / "state.json", MOST_STATE))
        files = [folder / Path(file["filename"]).name for file in state["_data_files"]]
        chosen, own = state.get("_indices_files"), state.get("_split")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{folder / 'state.json'} is not as save_to_disk writes it: {error!r}") from error
    if chosen:
        raise DatasetError(f"{text} is a selection of rows: call flatten_indices() before save_to_disk()")
    if own not in (None, split) and folder.name != split:
        raise InputError(f"{text}: {folder} holds split {own}, not {split}")
    if not files:
        raise DatasetError(f"{text} holds no samples")
    return files


def _features(file: ArrowFile) -> dict[str, Any]:
    """What Hugging Face wrote of the columns; nothing where something else wrote the file."""
    try:
        features = json.loads((file.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _choose(text: str, file: ArrowFile, column: str) -> _Columns:
    names, features = file.schema.names, _features(file)
    image = _one(text, "image", names, [n for n in names if features.get(n, {}).get("_type") == "Image"], USUAL_IMAGES)
    labels = [n for n in names if features.get(n, {}).get("_type") == "ClassLabel"]
    if column and column not in names:
        raise InputError(f"{text}: there is no column {column}: expected one of {', '.join(names)}")
    target = column or _one(text, "class", names, labels, USUAL_TARGETS)
    classes = features.get(target, {}).get("names") or []
    return _Columns(image, target, [str(name) for name in classes])


def _one(text: str, what: str, names: list[str], typed: list[str], usual: tuple[str, ...]) -> str:
    """The column of that kind: the only one that the features name, else the only one with a usual name."""
    found = typed or [name for name in names if name in usual]
    if len(found) == 1:
        return found[0]
    if found and what == "class":
        raise InputError(f"{text} has classes in {', '.join(found)}: say which, as in hf:PATH:SPLIT:{found[0]}")
    amount = f"{len(found)} columns of the kind {what}" if found else f"no column of the kind {what}"
    raise InputError(f"{text} has {amount} among {', '.join(names)}")


def _targets(file: ArrowFile, column: str) -> Rows:
    rows = file.column(column)
    if rows.null_count:
        raise DatasetError(f"{file.path}: {rows.null_count} of {len(rows)} rows have no {column}")
    return rows


def _numbered(text: str, columns: _Columns, parts: list[Rows]) -> tuple[list[str], np.ndarray]:
    """Names and numbers of the classes: those of a column of text are its values, sorted."""
    pa = arrow()
    rows = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    if pa.types.is_integer(rows.type):
        numbers = rows.to_numpy()
        most = len(columns.classes) or MOST_CLASSES
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < most:
            raise DatasetError(
                f"{text}: {columns.target} goes from {numbers.min()} to {numbers.max()}, expected 0 to {most - 1}"
            )
        return columns.classes, np.asarray(numbers, np.int64)
    if not (pa.types.is_string(rows.type) or pa.types.is_large_string(rows.type)):
        raise DatasetError(f"{text}: {columns.target} is of type {rows.type}, expected whole numbers or text")
    values = np.asarray(rows.to_pylist(), dtype=object)
    names = sorted(set(values))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[value] for value in values], np.int64)
