"""What every benchmark is given, and what it gives back: figures for JSON, a table for people, a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from fastlabel.benchmarks.harness import Timing

OURS, PEER = "#1f6fb4", "#8a8a8a"
Plot = Callable[[Any], None]  # draws into a matplotlib Axes


@dataclass(frozen=True)
class Setup:
    """What is measured on.

    folder: for files of the run, the same for every question asked together. photos: a folder of images, or None for
    photo-like ones that are made. rounds: of each comparison, or None for the question's own number. quick: tiny
    sizes, which show that everything runs and whose figures mean nothing.
    """

    folder: Path
    photos: Path | None = None
    rounds: int | None = None
    quick: bool = False

    def size(self, usual: int, quick: int) -> int:
        return quick if self.quick else usual

    @property
    def images(self) -> str:
        """Which images are measured on, for notes."""
        return "Photos" if self.photos else "Photo-like images made here"

    def rounds_or(self, usual: int) -> int:
        return self.rounds or self.size(usual, 2)


@dataclass(frozen=True)
class Answer:
    """The result of one question.

    question: one sentence. figures: plain values, Timings and dataclasses, for JSON. heads and rows: the table, of one
    text for each column. notes: what a reader must know. plot: draws the result, or None where a plot tells nothing.
    """

    question: str
    figures: Mapping[str, Any]
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    plot: Plot | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"question": self.question, "notes": list(self.notes), **{k: plain(v) for k, v in self.figures.items()}}

    def lines(self) -> Iterable[str]:
        """For people: the question, the table with aligned columns, the notes."""
        yield self.question
        yield ""
        table = (self.heads, *self.rows)
        widths = [max(len(row[column]) for row in table) for column in range(len(self.heads))]
        for row in table:
            rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            yield "  ".join((row[0].ljust(widths[0]), *rest)).rstrip()
        yield ""
        yield from self.notes


def plain(value: Any) -> Any:
    """Dataclasses, also inside mappings and sequences, as dicts."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def rate(timing: Timing, count: float) -> tuple[float, float, float]:
    """Things per second: median, and the 20th and 80th percentile, of ``count`` things in each timed call."""
    return count / timing.median, count / timing.p80, count / timing.p20


def rate_cells(timing: Timing, count: float) -> tuple[str, str]:
    """Two cells of a table: the median rate, and its spread."""
    median, low, high = rate(timing, count)
    return f"{median:,.0f}", f"{low:,.0f} to {high:,.0f}"


def bars(rates: Mapping[str, tuple[float, float, float]], unit: str, ours: Iterable[str], log: bool = False) -> Plot:
    """Horizontal bars of rates (median, low, high), the first on top, ours in colour."""
    mine = set(ours)

    def plot(axes: Any) -> None:
        names = list(rates)[::-1]
        values = [rates[name][0] for name in names]
        errors = [[rates[n][0] - rates[n][1] for n in names], [rates[n][2] - rates[n][0] for n in names]]
        axes.barh(names, values, xerr=errors, color=[OURS if name in mine else PEER for name in names])
        axes.set_xlabel(f"{unit} (median, p20 to p80)")
        if log:
            axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)

    return plot


def draw(out: Path, answers: Mapping[str, Answer]) -> None:
    """One PNG with a panel for every answer that has a plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots = {name: answer for name, answer in answers.items() if answer.plot is not None}
    figure = Figure(figsize=(9, max(1, len(plots)) * 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(len(plots), 1, squeeze=False)[:, 0]) if plots else []
    for axes, (name, answer) in zip(panels, plots.items(), strict=True):
        assert answer.plot is not None
        answer.plot(axes)
        axes.set_title(f"{name}: {answer.question}", fontsize=9, loc="left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
