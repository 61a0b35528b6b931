"""Findings about a store: what is wrong with which file, and which labels that hits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        return f"{self.level}: {self.file}: {self.problem}{self.place}"

    @property
    def place(self) -> str:
        """The labels that it hits, in brackets; nothing where it hits all."""
        words = [f"teacher {self.teacher}"] if self.teacher is not None else []
        words += [f"unit {self.unit}"] if self.unit is not None else []
        words += [f"{word} {_range(at)}" for word, at in (("view", self.views), ("row", self.rows)) if at]
        return f" [{', '.join(words)}]" if words else ""


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


def without_path(error: Exception, path: Path) -> str:
    """An error's text, for a finding that names the file itself."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return str(error).removeprefix(f"{path} ")


def _range(at: Range) -> str:
    start, stop = at
    return str(start) if stop - start == 1 else f"{start} to {stop - 1}"
