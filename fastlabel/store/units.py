"""Units: written, fsynced, recorded. What has no record does not exist; a record without its bytes is an error.

A unit's shards are written under temporary names, fsynced and renamed, and their folders are fsynced; only then the
unit's record is written: a group of its own whose attributes are the record. Records of two writers cannot overwrite
one another, as updates of one shared attribute would.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.digests import canonical_json
from fastlabel.errors import StoreError
from fastlabel.store.layout import ATTRIBUTE, NODE, UNITS, Node, node_text, read_node, sealed_node
from fastlabel.store.manifest import Manifest, Unit
from fastlabel.store.shard import BY_COLUMN, encode_shard
from fastlabel.system.atomic_files import PARTIAL, fsync, write_file

ARRAYS = ("classes", "codes", "tail")  # of every teacher
ALL_ARRAYS = (*ARRAYS, "coefficients")  # of one whose labels have a transform
_KEY = re.compile(r"(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})")  # of a unit: its row and column


@dataclass(frozen=True)
class UnitAddress:
    """Which views and samples (rows of the store) a unit holds; ``row`` and ``column`` number the units."""

    row: int
    column: int
    view_start: int
    view_stop: int
    sample_start: int
    sample_stop: int

    @property
    def key(self) -> str:
        return f"{self.row}.{self.column}"

    @property
    def views(self) -> range:
        return range(self.view_start, self.view_stop)

    @property
    def shape(self) -> tuple[int, int]:
        return self.view_stop - self.view_start, self.sample_stop - self.sample_start


@dataclass(frozen=True)
class Record:
    """That the first views of a unit are committed, up to ``view_stop``: all, but where a unit has grown.

    Attributes:
        manifest: digest of the manifest that the unit was made under.
        samples: digest of the ids of its samples.
        labels: SHA-256 for each view: the bytes of classes, codes, tail (and coefficients), one after the other.
        boxes: SHA-256 for each view: all that makes its crops, as `crop_table` gives it, little-endian int32.
    """

    view_start: int
    view_stop: int
    sample_start: int
    sample_stop: int
    manifest: str
    samples: str
    labels: tuple[str, ...]
    boxes: tuple[str, ...]


def addresses(manifest: Manifest) -> Iterator[UnitAddress]:
    """All units of a store of that extent, view group by view group."""
    for row in range(-(-manifest.num_views // manifest.unit.views)):
        yield from units_of_row(manifest, row)


def units_of_row(manifest: Manifest, row: int) -> Iterator[UnitAddress]:
    """The units of one view group."""
    for rows in manifest.segments:
        for sample in range(rows.start, rows.stop, manifest.unit.samples):
            yield _address(manifest, row, rows, sample)


def address(manifest: Manifest, row: int, column: int) -> UnitAddress | None:
    """The unit of that place, or None where a store of that extent has none."""
    sample = column * manifest.unit.samples
    rows = next((rows for rows in manifest.segments if sample in rows), None)
    return (
        None
        if rows is None or row * manifest.unit.views >= manifest.num_views
        else _address(manifest, row, rows, sample)
    )


def _address(manifest: Manifest, row: int, rows: range, sample: int) -> UnitAddress:
    unit, view = manifest.unit, row * manifest.unit.views
    stop = min(view + unit.views, manifest.num_views), min(sample + unit.samples, rows.stop)
    return UnitAddress(row, sample // unit.samples, view, stop[0], sample, stop[1])


def count_units(manifest: Manifest) -> int:
    """How many units each teacher has in a store of that extent."""
    columns = sum(-(-len(rows) // manifest.unit.samples) for rows in manifest.segments)
    return -(-manifest.num_views // manifest.unit.views) * columns


def array_names(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a teacher's arrays, in the order of the format."""
    there = set(names)
    return tuple(name for name in ALL_ARRAYS if name in there)


def labels_digest(labels: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of one view's labels: little-endian C-order bytes of the arrays in the order of the format."""
    digest = hashlib.sha256()
    for array in (labels[name] for name in array_names(labels)):
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def boxes_digest(boxes: NDArray[np.int32]) -> str:
    """SHA-256 (hex) of crop boxes, and of how they are mixed, as little-endian int32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(boxes, "<i4").data).hexdigest()


def write_unit(
    root: Path, teacher: int, at: UnitAddress, labels: Mapping[str, NDArray[Any]], record: Record, unit: Unit
) -> None:
    """Replace a unit's shards, each at once and durably, then its record.

    Where it only gains views, its old record is true of the new shards as well: whatever stops this, nothing is lost.
    """
    names = array_names(labels)
    shards = [shard_path(root, teacher, name, at) for name in names]
    for name, shard in zip(names, shards, strict=True):
        make_way(shard)
        _make_folders(root / str(teacher) / name, shard.parent)
        write_file(shard, encode_shard(labels[name], unit.views, unit.samples, by_column=name in BY_COLUMN))
    for folder in dict.fromkeys(folder for shard in shards for folder in shard.parents if folder.is_relative_to(root)):
        fsync(folder)
    _write_record(root, teacher, at, record)


def discard_record(root: Path, teacher: int, at: UnitAddress) -> None:
    """Make a unit one that is not committed, durably. Its shards stay until they are written anew."""
    path = record_path(root, teacher, at)
    if os.path.lexists(path):
        make_way(path, whatever=True)
        fsync(path.parent)


def make_way(path: Path, whatever: bool = False) -> None:
    """Remove a folder, or with ``whatever`` anything, where a file is to be written.

    Raises:
        StoreError: it is a folder that is not empty: what is in there is not ours.
    """
    if not path.is_dir() or path.is_symlink():
        if whatever:
            path.unlink(missing_ok=True)
        return
    try:
        path.rmdir()
    except OSError as error:
        raise StoreError(f"{path} is a folder where a file of the store must be; move it away") from error


def shard_file(teacher: int, name: str, at: UnitAddress) -> str:
    """Path within its store of a unit's part of an array: the file that zarr keeps it in."""
    return f"{teacher}/{name}/c/{at.row}/{at.column}/0"


def shard_path(root: Path, teacher: int, name: str, at: UnitAddress) -> Path:
    return root / shard_file(teacher, name, at)


def record_file(teacher: int, at: UnitAddress) -> str:
    """Path within its store of a unit's record."""
    return f"{teacher}/{UNITS}/{at.key}/{NODE}"


def record_path(root: Path, teacher: int, at: UnitAddress) -> Path:
    return root / record_file(teacher, at)


def _write_record(root: Path, teacher: int, at: UnitAddress, record: Record) -> None:
    path = record_path(root, teacher, at)
    _make_folders(root / str(teacher) / UNITS, path.parent)
    write_file(path, node_text(record_node(record)))
    fsync(path.parent.parent)


def _make_folders(node: Path, folder: Path) -> None:
    """Make a folder within that of an array or a group, which must be there: a store that vanished is not begun anew.

    Raises:
        StoreError: that of the array or group is not there.
    """
    if not (node / NODE).is_file():
        raise StoreError(f"{node} has lost its {NODE} while it was written; was the store moved or removed?")
    for part in (*reversed(folder.relative_to(node).parents), folder.relative_to(node)):
        (node / part).mkdir(exist_ok=True)


def record_node(record: Record) -> Node:
    """A record as the node that its file holds."""
    return sealed_node({"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: asdict(record)}})


def read_record(root: Path, teacher: int, at: UnitAddress) -> Record | None:
    """A unit's record, or None where it is not committed; StoreError where it is damaged or of another unit."""
    path = record_path(root, teacher, at)
    try:
        node = read_node(path.parent)
        data = node["attributes"][ATTRIBUTE]
        record = Record(**data | {"labels": tuple(map(str, data["labels"])), "boxes": tuple(map(str, data["boxes"]))})
        whole = canonical_json(node) == canonical_json(record_node(record))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: not the record of a unit ({error})") from error
    if not whole:
        raise StoreError(f"{path} is damaged: it holds more or something else than the record of a unit")
    place = (at.view_start, at.view_stop, at.sample_start, at.sample_stop)
    found = (record.view_start, record.view_stop, record.sample_start, record.sample_stop)
    # Fewer views than the unit's are committed while it grows, more where it grew since the manifest was read.
    fits = all(type(number) is int for number in found) and (found[0], *found[2:]) == (place[0], *place[2:])
    if not fits or not 0 < len(record.labels) == len(record.boxes) == record.view_stop - record.view_start:
        raise StoreError(f"{path} is damaged: it records the unit {found}, its place is {place}")
    return record


def touched_units(root: Path, teacher: int, manifest: Manifest) -> list[UnitAddress]:
    """The units of a store of that extent of which there is a file, in the order of `addresses`.

    It looks at what is there: a manifest may promise more units than anyone could visit.
    """
    folder = root / str(teacher)
    keys = set(_names(folder / UNITS))
    for array in ALL_ARRAYS:
        chunks = folder / array / "c"
        keys |= {f"{row}.{column}" for row in _names(chunks) for column in _names(chunks / row)}
    places = sorted(tuple(map(int, key.split("."))) for key in keys if _KEY.fullmatch(key))
    return [unit for row, column in places if (unit := address(manifest, row, column)) is not None]


def recorded_units(root: Path, teacher: int, manifest: Manifest) -> list[UnitAddress]:
    """Those of them that have a record, possibly a damaged one."""
    units = touched_units(root, teacher, manifest)
    return [unit for unit in units if os.path.lexists(record_path(root, teacher, unit))]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # there is none; `verify` says so where it cannot be listed
        return []


@contextmanager
def writing(root: Path, shared: bool = False) -> Iterator[WriterLock]:
    """Hold a store for writing; the lock dies with its process. StoreError where another run holds it.

    Args:
        shared: as a rank of a run whose first rank has shared its lock.
    """
    lock = WriterLock(root, os.open(root, os.O_RDONLY))
    try:
        lock.take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock.handle)


@dataclass(frozen=True)
class WriterLock:
    """A store held for writing: exclusively, or together with the other ranks of a run."""

    root: Path
    handle: int

    def take(self, kind: int) -> None:
        try:
            fcntl.flock(self.handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process is labelling into {self.root}; wait for it, or stop it") from error

    def share(self) -> None:
        """Let the other ranks of this run in. Another run stays out for as long as one of them lives."""
        self.take(fcntl.LOCK_SH)


def sweep(root: Path) -> int:
    """Remove the temporary files and folders that a killed writer left; how many there were."""
    left = list(root.rglob(f"*{PARTIAL}"))
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(left)
