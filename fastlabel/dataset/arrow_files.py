"""Columns of Parquet and Arrow files, row by row, with pyarrow. Few row groups are in memory at once."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from fastlabel.errors import DatasetError
from fastlabel.system.optional_packages import optional_module
from fastlabel.system.regular_files import open_regular

GROUPS_KEPT = 3  # threads that read in order are in one group, or at the border of two
Rows = Any  # a pyarrow.ChunkedArray
Value = TypeVar("Value")


class ArrowFile(Protocol):
    """A table in a file. `value` may be called from many threads."""

    path: Path
    schema: Any
    num_rows: int

    def column(self, name: str) -> Rows:
        """All values of a column."""

    def value(self, name: str, row: int) -> Any:
        """One value, as a Python object."""


def arrow() -> Any:
    """The module pyarrow; InputError where it is not installed."""
    return optional_module("pyarrow", "hf")


def open_arrow_file(path: Path) -> ArrowFile:
    """A .arrow file as datasets writes it, else Parquet. DatasetError where it cannot be read."""

    def opened() -> ArrowFile:
        os.close(open_regular(path))
        return StreamFile(path) if path.suffix == ".arrow" else ParquetFile(path)

    return _guarded(path, opened)


class ParquetFile:
    """Parquet is compressed by groups of rows: what one row costs is its group."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.path = path
        self._file = parquet.ParquetFile(path)
        self.schema, self.num_rows = self._file.schema_arrow, self._file.metadata.num_rows
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = list(accumulate(sizes, initial=0))

    def column(self, name: str) -> Rows:
        with _kept_lock:
            return _guarded(self.path, lambda: self._file.read(columns=[name]).column(name))

    def value(self, name: str, row: int) -> Any:
        group = bisect_right(self._ends, row) - 1
        return self._group(name, group)[row - self._ends[group]].as_py()

    def _group(self, name: str, group: int) -> Rows:
        key = (self, name, group)
        with _kept_lock:
            if key not in _kept:
                read = _guarded(self.path, lambda: self._file.read_row_group(group, columns=[name]).column(name))
                _kept[key] = read
            _kept.move_to_end(key)
            while len(_kept) > GROUPS_KEPT:
                _kept.popitem(last=False)
            return _kept[key]


_kept: OrderedDict[tuple[ParquetFile, str, int], Rows] = OrderedDict()  # of all files together
_kept_lock = Lock()  # one reads at a time: pyarrow's reader is not made for several


class StreamFile:
    """An Arrow stream lies in the file as it lies in memory: it is mapped, and a row costs a row."""

    def __init__(self, path: Path) -> None:
        pa = arrow()
        self.path = path
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            self._table = stream.read_all()
        self._table.validate(full=True)  # pyarrow follows damaged offsets out of the memory
        self.schema, self.num_rows = self._table.schema, self._table.num_rows

    def column(self, name: str) -> Rows:
        return self._table.column(name)

    def value(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()


def _guarded(path: Path, read: Callable[[], Value]) -> Value:
    """What `read` gives; DatasetError names the file where it cannot be read."""
    failures = (OSError, arrow().ArrowException)
    try:
        return read()
    except failures as error:
        raise DatasetError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
