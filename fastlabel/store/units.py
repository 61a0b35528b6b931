"""Units: written, fsynced, recorded. What has no record does not exist; a record without its bytes is an error.

zarr-python writes a chunk under a temporary name and renames it, but does not fsync, and leaves the temporary file
when it is killed. So after zarr has written a unit's shards they are fsynced here, with their folders, and only then
the unit's record is written: a group of its own whose attributes are the record. Records of two writers cannot
overwrite one another, as updates of one shared attribute would.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fastlabel.digests import canonical_json
from fastlabel.errors import StoreError
from fastlabel.store.layout import UNITS, node_text, sealed_node
from fastlabel.store.manifest import Manifest
from fastlabel.system.atomic_files import PARTIAL, fsync, write_file

ARRAYS = ("classes", "codes", "tail")
RECORD_KEY = "fastlabel"


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
    def shape(self) -> tuple[int, int]:
        return self.view_stop - self.view_start, self.sample_stop - self.sample_start


@dataclass(frozen=True)
class Record:
    """That a unit is committed.

    Attributes:
        manifest: digest of the manifest that the unit was made under.
        samples: digest of the ids of its samples.
        labels: SHA-256 for each view: the bytes of classes, codes and tail, one after the other.
        boxes: SHA-256 for each view: the crop boxes, little-endian int32 [samples, 5].
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
    unit = manifest.unit
    for row, view in enumerate(range(0, manifest.num_views, unit.views)):
        for rows in manifest.segments:
            for sample in range(rows.start, rows.stop, unit.samples):
                stop = min(view + unit.views, manifest.num_views), min(sample + unit.samples, rows.stop)
                yield UnitAddress(row, sample // unit.samples, view, stop[0], sample, stop[1])


def labels_digest(classes: NDArray[Any], codes: NDArray[Any], tail: NDArray[Any]) -> str:
    """SHA-256 (hex) of one view's labels: little-endian C-order bytes of the three arrays."""
    digest = hashlib.sha256()
    for array in (classes, codes, tail):
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def boxes_digest(boxes: NDArray[np.int32]) -> str:
    """SHA-256 (hex) of crop boxes as little-endian int32 [samples, 5]."""
    return hashlib.sha256(np.ascontiguousarray(boxes, "<i4").data).hexdigest()


def write_unit(root: Path, teacher: int, at: UnitAddress, labels: Mapping[str, NDArray[Any]], record: Record) -> None:
    """Write a unit's three shards and make them durable, then its record."""
    group = zarr.open_group(root / str(teacher), mode="r+")
    # zarr reads what it overwrites, and what a crash left there need not be readable.
    for name in ARRAYS:
        shard_path(root, teacher, name, at).unlink(missing_ok=True)
    # An all-zero shard would not be written at all otherwise, and could not be told from a lost one.
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name in ARRAYS:
            array = group[name]
            assert isinstance(array, zarr.Array)
            array[at.view_start : at.view_stop, at.sample_start : at.sample_stop] = labels[name]
    shards = [shard_path(root, teacher, name, at) for name in ARRAYS]
    folders = dict.fromkeys(folder for shard in shards for folder in shard.parents if folder.is_relative_to(root))
    for path in [*shards, *folders]:
        fsync(path)
    _write_record(root, teacher, at, record)


def shard_path(root: Path, teacher: int, name: str, at: UnitAddress) -> Path:
    """The file that zarr keeps a unit's part of an array in."""
    return root / str(teacher) / name / "c" / str(at.row) / str(at.column) / "0"


def record_path(root: Path, teacher: int, at: UnitAddress) -> Path:
    return root / str(teacher) / UNITS / at.key / "zarr.json"


def _write_record(root: Path, teacher: int, at: UnitAddress, record: Record) -> None:
    path = record_path(root, teacher, at)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, node_text(record_node(record)))
    fsync(path.parent.parent)


def record_node(record: Record) -> dict[str, Any]:
    """A record as the node that its file holds."""
    return sealed_node({"zarr_format": 3, "node_type": "group", "attributes": {RECORD_KEY: asdict(record)}})


def read_record(root: Path, teacher: int, at: UnitAddress) -> Record | None:
    """A unit's record, or None where it is not committed; StoreError where it is damaged or of another unit."""
    path = record_path(root, teacher, at)
    try:
        node = json.loads(path.read_text())
        data = node["attributes"][RECORD_KEY]
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
    if found != place or not len(record.labels) == len(record.boxes) == at.shape[0]:
        raise StoreError(f"{path} is damaged: it records the unit {found}, its place is {place}")
    return record


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
