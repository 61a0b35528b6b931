"""Results of cells: one row for each student, means and deviations over the repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any


@dataclass(frozen=True)
class Student:
    """One student.

    Attributes:
        cell: the values of the grid.
        repeat: 0, 1, ...
        result: accuracy (share of 1), loss (nats), by_class, label_entropy (nats), label_top1 (share of labels whose
            top class is the true one), images, seconds, of which label_seconds and test_seconds, and what the study
            adds.
    """

    cell: Mapping[str, Any]
    repeat: int
    result: Mapping[str, Any]


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation over n repeats (0 for one)."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanStd:
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))

    def percent(self) -> str:
        """ "12.3 ± 0.4" of shares of 1."""
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f}" if self.n > 1 else f"{100 * self.mean:.1f}"


class Students(Sequence[Student]):
    """The rows of a study, in the order of its grid."""

    def __init__(self, rows: Sequence[Student]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return Students(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Student]:
        return iter(self._rows)

    def where(self, **values: Any) -> Students:
        """Those whose cells have these values."""
        return Students([row for row in self._rows if all(row.cell.get(k) == v for k, v in values.items())])

    def values(self, axis: str) -> list[Any]:
        """The values of an axis that occur, in their order."""
        return list(dict.fromkeys(row.cell[axis] for row in self._rows if axis in row.cell))

    def cells(self) -> list[tuple[Mapping[str, Any], Students]]:
        """Each cell, and its repeats."""
        found: dict[str, list[Student]] = {}
        for row in self._rows:
            found.setdefault(repr(sorted(row.cell.items())), []).append(row)
        return [(rows[0].cell, Students(rows)) for rows in found.values()]

    def change_from(self, control: Students) -> MeanStd:
        """Of the accuracy less that of the control's student of the same repeat, with the same images and weights."""
        before = {row.repeat: float(row.result["accuracy"]) for row in control}
        return MeanStd.of([float(row.result["accuracy"]) - before[row.repeat] for row in self._rows])

    def spread(self, what: str = "accuracy") -> MeanStd:
        """Of a result over all these rows. ValueError where there is none."""
        return MeanStd.of([float(row.result[what]) for row in self._rows])
