"""What `verify` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastlabel.store.finding import Finding


@dataclass
class Recomputed:
    """Labels made again: how many, how many of them differ by rounding, how many of their codes, and what is wrong."""

    labels: int = 0
    rounded: int = 0
    moved: int = 0
    findings: list[Finding] = field(default_factory=list)


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
