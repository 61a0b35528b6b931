"""The result folder of a study: results.csv, report.md, figure.png."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastlabel.studies.results import Students
from fastlabel.system.atomic_files import write_file

NAMES = {
    "accuracy": "test accuracy, %",
    "epoch": "expert epoch",
    "ipc": "images per class",
    "k": "classes kept",
    "label_entropy": "entropy of the labels, nats",
}
"""Of axes and results, in figures."""

Draw = Callable[[Any], None]
"""Draws into a matplotlib Axes."""


@dataclass(frozen=True)
class Table:
    """A table of a report: a caption, headers, and rows of text."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

    def text(self) -> str:
        """Aligned columns."""
        lines = [list(map(str, line)) for line in (self.headers, *self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headers))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


@dataclass(frozen=True)
class Report:
    """What a study found: tables, sentences computed from the rows, and panels of its figure."""

    tables: Sequence[Table]
    findings: Sequence[str]
    panels: Sequence[Draw] = field(default=())


def write_results(out: Path, title: str, facts: Mapping[str, str], rows: Students, report: Report) -> None:
    """Write all three files, each whole or not at all."""
    write_file(out / "results.csv", _csv(rows))
    if report.panels:
        write_file(out / "figure.png", _figure(report.panels))
    write_file(out / "report.md", _markdown(title, facts, report))


def _markdown(title: str, facts: Mapping[str, str], report: Report) -> str:
    parts = [f"# {title}", "\n".join(f"- **{name}**: {value}" for name, value in facts.items())]
    parts += ["## Results", *(table.markdown() for table in report.tables)]
    if report.panels:
        parts.append("![The results as a figure](figure.png)")
    if report.findings:
        parts += ["## Findings", "\n".join(f"- {finding}" for finding in report.findings)]
    return "\n\n".join(parts) + "\n"


def _csv(rows: Students) -> str:
    """One line a student; lists (accuracies by class) joined by spaces."""
    axes = list(dict.fromkeys(axis for row in rows for axis in row.cell))
    results = list(dict.fromkeys(name for row in rows for name in row.result))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "repeat", *results])
    for row in rows:
        values = (
            [row.cell.get(axis, "") for axis in axes] + [row.repeat] + [row.result.get(name, "") for name in results]
        )
        writer.writerow([" ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for v in values])
    return text.getvalue()


def _figure(panels: Sequence[Draw]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def lines_panel(
    rows: Students, x: str, series: str | None, title: str, xlabel: str, *, log: bool = False, what: str = "accuracy"
) -> Draw:
    """Mean and deviation of a result over the axis `x`, one line for each value of the axis `series`."""

    def draw(axes: Any) -> None:
        for value in rows.values(series) if series else [None]:
            some = rows.where(**{series: value}) if series else rows
            points = [(at, some.where(**{x: at}).spread(what)) for at in some.values(x)]
            places = [at for at, _ in points]
            scale = 100 if what == "accuracy" else 1
            axes.errorbar(
                places,
                [scale * spread.mean for _, spread in points],
                [scale * spread.std for _, spread in points],
                marker="o",
                markersize=4,
                capsize=3,
                label=None if series is None else f"{value}",
            )
        if log:
            axes.set_xscale("log", base=2)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(NAMES.get(what, what))
        if series:
            axes.legend(title=NAMES.get(series, series), frameon=False, fontsize="small")

    return draw


def percent(value: float) -> str:
    """ "56.0" of a share of 1."""
    return f"{100 * value:.1f}"
