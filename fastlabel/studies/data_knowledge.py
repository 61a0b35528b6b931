"""Data against knowledge: images per class x classes kept of each label (arXiv 2406.10485, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels import ops as label_ops
from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.curves import PowerLaw, fit_power_law, pareto_front
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, one_expert

IPCS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 40)
RESTS = ("zero", "renormalise", "tail")
ALL, HARD = "all", "hard"
LEAST_EXPONENT = 0.01  # a flatter curve says nothing of how many images a label is worth


def usual_top_ks(num_classes: int) -> list[str]:
    """1, 2, 4, ... below the number of classes, then all of them, and hard labels."""
    powers = [str(2**i) for i in range(num_classes.bit_length()) if 2**i < num_classes]
    return [*powers, ALL, HARD]


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    epoch = bench.one_epoch(grid["epoch"])
    if unknown := set(grid["rest"]) - set(RESTS):
        raise InputError(f"unknown rest {', '.join(sorted(unknown))}: known are {', '.join(RESTS)}")
    cells = []
    for ipc in grid["ipc"]:
        for k in grid["top-k"] or usual_top_ks(bench.num_classes):
            _check_top_k(k, bench.num_classes)
            cell = {"ipc": ipc, "k": k, "epoch": epoch, "labels": HARD if k == HARD else "soft"}
            # Of a whole label, or a hard one, there is no rest.
            rests = grid["rest"] if k not in (ALL, HARD) else ("-",)
            cells += [{**cell, "rest": rest} for rest in rests]
    return cells


def _check_top_k(k: str, num_classes: int) -> None:
    if k not in (ALL, HARD) and not (k.isdigit() and 1 <= int(k) <= num_classes):
        raise InputError(f"top-k must be 1 to {num_classes}, {ALL} or {HARD}, found {k!r}")


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    if cell["k"] == HARD:
        return None
    labels = bench.labels((0, cell["epoch"]), ids).sparse()
    return labels if cell["k"] == ALL else label_ops.keep_top(labels, int(cell["k"]), cell["rest"])


def _knowledge(k: str, num_classes: int) -> int:
    """Classes that a label says something of beyond the true one's name."""
    return {HARD: 0, ALL: num_classes}.get(k, int(k) if k.isdigit() else 0)


def _report(bench: Workbench, rows: Students) -> Report:
    curves = [(k, rest) for k in rows.values("k") for rest in rows.where(k=k).values("rest")]
    ipcs = rows.values("ipc")
    accuracy = [[_name(*curve), *(_cell(rows, ipc, *curve).spread().percent() for ipc in ipcs)] for curve in curves]
    laws = {curve: _law(rows, ipcs, *curve) for curve in curves}
    fitted = [[_name(*curve), *_numbers(law)] for curve, law in laws.items() if law is not None]
    cells = rows.cells()
    points = [(cell["ipc"], _knowledge(cell["k"], bench.num_classes), of.spread().mean) for cell, of in cells]
    front = [
        [str(cell["ipc"]), _name(cell["k"], cell["rest"]), of.spread().percent()]
        for cell, of in (cells[i] for i in pareto_front(points))
    ]
    tables = [
        Table(
            "Test accuracy of students in percent, by classes kept of each label (rows) and images per class.",
            ["top-k", *map(str, ipcs)],
            accuracy,
        ),
        Table(
            "Error = floor + scale * n^-exponent, n images per class; least squares over the means.",
            ["top-k", "floor", "scale", "exponent", "rmse, points"],
            fitted,
        ),
        Table(
            "Pareto front: cells that no cell with as few images and as few classes in its labels equals.",
            ["images per class", "top-k", "student, %"],
            front,
        ),
    ]
    if not fitted:
        del tables[1]
    panels = [
        lines_panel(rows.where(rest=rest), "ipc", "k", _title(rest), "images per class", log=True)
        for rest in rows.values("rest")
    ]
    return Report(tables, _findings(rows, ipcs, curves, laws), panels)


def _cell(rows: Students, ipc: int, k: str, rest: str) -> Students:
    return rows.where(ipc=ipc, k=k, rest=rest)


def _title(rest: str) -> str:
    return "Whole and hard labels" if rest == "-" else f"Top classes, the rest: {rest}"


def _name(k: str, rest: str) -> str:
    return k if rest == "-" else f"{k}, {rest}"


def _law(rows: Students, ipcs: list[int], k: str, rest: str) -> PowerLaw | None:
    return fit_power_law(ipcs, [1 - _cell(rows, ipc, k, rest).spread().mean for ipc in ipcs])


def _numbers(law: PowerLaw) -> list[str]:
    return [f"{law.floor:.3f}", f"{law.scale:.3f}", f"{law.exponent:.3f}", f"{100 * law.rmse:.2f}"]


def _findings(
    rows: Students, ipcs: list[int], curves: list[tuple[str, str]], laws: Mapping[tuple[str, str], PowerLaw | None]
) -> list[str]:
    findings = []
    for ipc in ipcs:
        best = max(curves, key=lambda curve: _cell(rows, ipc, *curve).spread().mean)
        findings.append(f"{ipc} images per class: best {_name(*best)}, {_cell(rows, ipc, *best).spread().percent()} %.")
    hard = laws.get((HARD, "-"))
    if hard is not None and hard.exponent > LEAST_EXPONENT and (ALL, "-") in curves:
        few = min(ipcs)
        soft = _cell(rows, few, ALL, "-").spread().mean
        worth = hard.images_for(1 - soft) / few
        findings.append(
            f"By the curve of hard labels, one image with a whole soft label is worth {worth:.1f} with hard ones at "
            f"{few} images per class."
        )
    return findings


STUDY = Study(
    name="data-knowledge",
    question="Data and knowledge: how many images is a soft label worth?",
    axes=(
        Axis("ipc", int, IPCS, "Images per class."),
        Axis(
            "top-k", str, None, f"Classes kept of each label, {ALL}, or {HARD}.  [default: 1, 2, 4, ..., {ALL}, {HARD}]"
        ),
        Axis("rest", str, ("zero",), f"What becomes of the others: {', '.join(RESTS)}."),
        Axis("epoch", int, None, "Expert epoch.  [default: the last]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
