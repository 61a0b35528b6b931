"""What `verify` reports: findings, each of which names a file and the unit that it hits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastlabel.store.units import UnitAddress

Range = tuple[int, int]  # start, stop
Level = Literal["error", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a store, or that one should know.

    Attributes:
        level: "error", or "note" for what harms no label that the store holds.
        file: path within the store, "." for the store as a whole, or the path of the dataset file.
        problem: a sentence without the file's name.
        teacher: number of the teacher that it hits, None for all.
        unit: key of the unit that it hits, "row.column", where it hits one.
        views: (start, stop) of the views that it hits, None for all.
        rows: (start, stop) of the samples that it hits, as rows of the store; None for all.
    """

    level: Level
    file: str
    problem: str
    teacher: int | None = None
    unit: str | None = None
    views: Range | None = None
    rows: Range | None = None

    def __str__(self) -> str:
        place = [f"teacher {self.teacher}"] if self.teacher is not None else []
        place += [f"unit {self.unit}"] if self.unit is not None else []
        place += [f"{word} {_range(at)}" for word, at in (("view", self.views), ("row", self.rows)) if at]
        return f"{self.level}: {self.file}: {self.problem}" + (f" [{', '.join(place)}]" if place else "")


@dataclass(frozen=True)
class UnitPlace:
    """Where a finding about a unit lies."""

    teacher: int
    unit: UnitAddress

    def error(self, file: str, problem: str, view: int | None = None) -> Finding:
        return self._finding("error", file, problem, view)

    def note(self, file: str, problem: str) -> Finding:
        return self._finding("note", file, problem, None)

    def _finding(self, level: Level, file: str, problem: str, view: int | None) -> Finding:
        unit = self.unit
        views = (unit.view_start, unit.view_stop) if view is None else (view, view + 1)
        return Finding(level, file, problem, self.teacher, unit.key, views, (unit.sample_start, unit.sample_stop))


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and every finding.

    Attributes:
        units, units_committed, units_sound: over all teachers.
        files, bytes: below the store's folder.
        dataset_checked: the dataset file and all crop boxes were compared.
        labels_recomputed: labels that a teacher made again from pixels.
        labels_rounded: those of them that differ by no more than rounding.
    """

    store: str
    findings: tuple[Finding, ...]
    units: int
    units_committed: int
    units_sound: int
    files: int
    bytes: int
    dataset_checked: bool
    labels_recomputed: int
    labels_rounded: int
    seconds: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def sound(self) -> bool:
        """Nothing is wrong; units may still be missing."""
        return not self.errors

    @property
    def complete(self) -> bool:
        """Every unit of every teacher is committed."""
        return 0 < self.units == self.units_committed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sound": self.sound, "complete": self.complete}


def _range(at: Range) -> str:
    start, stop = at
    return str(start) if stop - start == 1 else f"{start} to {stop - 1}"
