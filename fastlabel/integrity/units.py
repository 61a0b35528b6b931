"""The units of a store under `verify`: records, shards, and the digests that hold them together."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastlabel.digests import ids_digest
from fastlabel.errors import StoreError
from fastlabel.integrity.metadata import Metadata, check_spelling, without_path
from fastlabel.integrity.report import Finding, UnitPlace
from fastlabel.integrity.shard_reader import DamagedChunkError, Shard
from fastlabel.store import units as commit
from fastlabel.store.layout import NODE, UNITS, columns
from fastlabel.store.units import ARRAYS, Record, UnitAddress
from fastlabel.system.progress import Progress


@dataclass(frozen=True)
class UnitState:
    """A unit of one teacher after its check.

    Attributes:
        teacher: its number in the store.
        committed: it has a record, be that damaged.
        record: None where there is none that can be used.
    """

    teacher: int
    unit: UnitAddress
    committed: bool
    record: Record | None
    findings: tuple[Finding, ...]

    @property
    def record_file(self) -> str:
        return record_file(self.teacher, self.unit)

    @property
    def shard_files(self) -> tuple[str, ...]:
        return tuple(shard_file(self.teacher, name, self.unit) for name in ARRAYS)

    @property
    def sound(self) -> bool:
        return self.committed and not any(finding.level == "error" for finding in self.findings)


def record_file(teacher: int, unit: UnitAddress) -> str:
    """Path of a unit's record within its store."""
    return f"{teacher}/{UNITS}/{unit.key}/{NODE}"


def shard_file(teacher: int, name: str, unit: UnitAddress) -> str:
    """Path of a unit's shard of an array within its store."""
    return commit.shard_path(Path(), teacher, name, unit).as_posix()


def open_shard(metadata: Metadata, index: int, name: str, unit: UnitAddress) -> Shard:
    """A unit's shard of an array of teacher ``index`` of the manifest. OSError; DamagedChunkError."""
    manifest = metadata.manifest
    assert manifest is not None
    width, dtype = columns(manifest.teachers[index].codec)[name]
    path = metadata.path / shard_file(metadata.numbers[index], name, unit)
    return Shard(path, unit.shape[0], manifest.unit.views, (manifest.unit.samples, width), dtype)


def check_units(metadata: Metadata, num_workers: int = 0, progress: bool = False) -> list[UnitState]:
    """Check every unit of every teacher whose manifest can be read."""
    manifest = metadata.manifest
    if manifest is None:
        return []
    manifests = [manifest.digest(index) for index in range(len(metadata.numbers))]
    samples = {unit.column: _ids_digest(metadata, unit) for unit in commit.addresses(manifest)}
    places = [(index, unit) for index in range(len(metadata.numbers)) for unit in commit.addresses(manifest)]

    def check(place: tuple[int, UnitAddress]) -> UnitState:
        index, unit = place
        return _check_unit(metadata, index, unit, manifests[index], samples[unit.column])

    # Reading, hashing and Blosc leave the interpreter's lock.
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        checked = pool.map(check, places)
        return list(Progress("verify", len(places), "units", shown=progress).over(checked))


def _ids_digest(metadata: Metadata, unit: UnitAddress) -> str | None:
    ids = metadata.unit_ids(unit)
    return None if ids is None else ids_digest(ids)


def _check_unit(metadata: Metadata, index: int, unit: UnitAddress, manifest: str, samples: str | None) -> UnitState:
    """Check a unit of teacher ``index`` of the manifest, whose record must have these two digests."""
    teacher = metadata.numbers[index]
    place, file = UnitPlace(teacher, unit), record_file(teacher, unit)
    path = metadata.path / file
    if not os.path.lexists(path):
        shards = [shard_file(teacher, name, unit) for name in ARRAYS]
        there = [shard for shard in shards if os.path.lexists(metadata.path / shard)]
        notes = [place.note(shard, "is of a unit that has no record: it is not committed") for shard in there]
        return UnitState(teacher, unit, False, None, tuple(notes))
    record, findings = None, []
    try:
        record = _read_record(metadata.path, teacher, unit, manifest, samples)
        check_spelling(path, commit.record_node(record))
    except (StoreError, OSError) as error:
        findings.append(place.error(file, without_path(error, path)))
    findings += _check_shards(metadata, index, place, record)
    return UnitState(teacher, unit, True, record, tuple(findings))


def _read_record(root: Path, teacher: int, unit: UnitAddress, manifest: str, samples: str | None) -> Record:
    record = commit.read_record(root, teacher, unit)
    if record is None:
        raise StoreError("is missing")
    if record.manifest != manifest:
        raise StoreError("was made under another manifest than the store's, or for another teacher")
    if samples is not None and record.samples != samples:
        raise StoreError("tells of other samples than the store names there")
    return record


def _check_shards(metadata: Metadata, index: int, place: UnitPlace, record: Record | None) -> list[Finding]:
    findings: list[Finding] = []
    shards: dict[str, Shard] = {}
    views, rows = place.unit.shape
    files = {name: shard_file(place.teacher, name, place.unit) for name in ARRAYS}
    for name, file in files.items():
        try:
            shards[name] = open_shard(metadata, index, name, place.unit)
        except (OSError, DamagedChunkError) as error:
            findings.append(place.error(file, without_path(error, metadata.path / file)))
    for v in range(views):
        view, labels = place.unit.view_start + v, {}
        for name, shard in shards.items():
            try:
                labels[name] = shard.view(v)[:rows]
            except DamagedChunkError as error:
                findings.append(place.error(files[name], str(error), view))
        if record is not None and len(labels) == len(ARRAYS):
            digest = commit.labels_digest(*(labels[name] for name in ARRAYS))
            if digest != record.labels[v]:
                problem = (
                    f"hold labels of the digest {digest[:12]}, their record says {record.labels[v][:12]}: one of them "
                    "is the file of another unit, or an older one"
                )
                findings.append(place.error(", ".join(files.values()), problem, view))
    return findings
