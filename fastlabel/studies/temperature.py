"""Expert epoch x temperature, re-tempered at use: no label is made again (arXiv 2406.10485, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.topk import check_temperature
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, crossed, one_expert


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    for temperature in grid["temperature"]:
        check_temperature("temperature", temperature)
    return crossed(ipc=grid["ipc"], epoch=bench.epochs_of(grid["epoch"]), temperature=grid["temperature"])


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    return bench.labels((0, cell["epoch"]), ids).sparse(float(cell["temperature"]))


def _report(bench: Workbench, rows: Students) -> Report:
    tables, findings = [], []
    temperatures = rows.values("temperature")
    for ipc in rows.values("ipc"):
        some = rows.where(ipc=ipc)
        lines = [
            [str(epoch), *(some.where(epoch=epoch, temperature=t).spread().percent() for t in temperatures)]
            for epoch in some.values("epoch")
        ]
        tables.append(
            Table(
                f"{ipc} images per class: test accuracy in percent by expert epoch (rows) and temperature (columns).",
                ["epoch", *(f"T = {t:g}" for t in temperatures)],
                lines,
            )
        )
        cells = some.cells()
        cell, best = max(cells, key=lambda pair: pair[1].spread().mean)
        plain = [(c, r) for c, r in cells if c["temperature"] == 1]
        finding = (
            f"{ipc} images per class: best at epoch {cell['epoch']} and T = {cell['temperature']:g}, "
            f"{best.spread().percent()} %"
        )
        if plain:
            cell, rows_plain = max(plain, key=lambda pair: pair[1].spread().mean)
            finding += f"; without a temperature at epoch {cell['epoch']}, {rows_plain.spread().percent()} %"
        findings.append(finding + ".")
    panels = [
        lines_panel(rows.where(ipc=ipc), "temperature", "epoch", f"{ipc} images per class", "temperature")
        for ipc in rows.values("ipc")
    ]
    return Report(tables, findings, panels)


STUDY = Study(
    name="temperature",
    question="Temperature: can a later expert be softened into an earlier one?",
    axes=(
        Axis("ipc", int, (10,), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: all that are kept]"),
        Axis("temperature", float, (1.0, 2.0, 3.0, 4.0, 5.0), "Temperatures that divide the expert's logits."),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
