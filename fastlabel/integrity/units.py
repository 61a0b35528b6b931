"""The units of a store under `verify`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastlabel.errors import StoreError
from fastlabel.store.finding import Finding, UnitPlace, without_path
from fastlabel.store.label_rules import broken_rule
from fastlabel.store.metadata import SPELLING, Metadata, is_spelled
from fastlabel.store.unit_reader import UnitReader
from fastlabel.store.units import (
    ARRAYS,
    Record,
    UnitAddress,
    record_file,
    record_node,
    shard_file,
    touched_units,
)
from fastlabel.system.progress import Progress


@dataclass(frozen=True)
class UnitState:
    """A unit of one teacher after its check.

    Attributes:
        teacher: its number in the store.
        committed: it has a record of all its views, possibly a damaged one.
        record: None where there is none that can be used.
    """

    teacher: int
    unit: UnitAddress
    committed: bool
    record: Record | None
    findings: tuple[Finding, ...]
    arrays: tuple[str, ...] = ARRAYS

    @property
    def record_file(self) -> str:
        return record_file(self.teacher, self.unit)

    @property
    def shard_files(self) -> tuple[str, ...]:
        return tuple(shard_file(self.teacher, name, self.unit) for name in self.arrays)

    @property
    def ahead(self) -> bool:
        """It has labels of more views than the store's metadata tells of: an old zarr.json is what is wrong."""
        return self.record is not None and self.record.view_stop > self.unit.view_stop

    @property
    def sound(self) -> bool:
        return self.committed and not any(finding.level == "error" for finding in self.findings)


def check_units(metadata: Metadata, num_workers: int = 0, progress: bool = False) -> list[UnitState]:
    """Check every unit that has a file, of every teacher whose manifest can be read."""
    manifest = metadata.manifest
    if manifest is None:
        return []
    readers = [UnitReader(metadata, index) for index in range(len(metadata.numbers))]
    places = [(reader, unit) for reader in readers for unit in touched_units(metadata.path, reader.teacher, manifest)]
    # Reading, hashing and Blosc leave the interpreter's lock.
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        checked = pool.map(lambda place: _check_unit(metadata, *place), places)
        return list(Progress("verify", len(places), "units", shown=progress).over(checked))


def _check_unit(metadata: Metadata, reader: UnitReader, unit: UnitAddress) -> UnitState:
    place, file = UnitPlace(reader.teacher, unit), record_file(reader.teacher, unit)
    path = metadata.path / file
    if not os.path.lexists(path):
        shards = [shard_file(reader.teacher, name, unit) for name in reader.arrays]
        there = [shard for shard in shards if os.path.lexists(metadata.path / shard)]
        notes = [place.note(shard, "is of a unit that has no record: it is not committed") for shard in there]
        return UnitState(reader.teacher, unit, False, None, tuple(notes), reader.arrays)
    record, findings = None, []
    try:
        record = reader.record(unit)
        if record is None:
            findings.append(place.error(file, "is missing"))
        elif not is_spelled(path, record_node(record)):
            findings.append(place.error(file, SPELLING))
    except (StoreError, OSError) as error:
        findings.append(place.error(file, without_path(error, path)))

    def report(file: str, problem: str, view: int | None) -> None:
        findings.append(place.error(file, problem, view))

    views = unit.views if record is None else range(record.view_start, min(record.view_stop, unit.view_stop))
    if record is not None and record.view_stop > unit.view_stop:
        problem = f"has views up to {record.view_stop - 1}, more than the store: is its zarr.json an older one?"
        findings.append(place.error(file, problem))
    for view, labels in reader.labels(unit, record, views, report):
        broken = broken_rule(labels, reader.num_classes, reader.has_offset)
        if broken is not None:
            report(", ".join(shard_file(reader.teacher, name, unit) for name in reader.arrays), broken, view)
    committed = record is None or record.view_stop >= unit.view_stop
    return UnitState(reader.teacher, unit, committed, record, tuple(findings), reader.arrays)
