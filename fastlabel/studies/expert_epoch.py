"""Student accuracy over the expert's epoch: when does an expert teach best? (arXiv 2406.10485, section 4)"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table, lines_panel, percent
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, crossed, one_expert


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    return crossed(ipc=grid["ipc"], epoch=bench.epochs_of(grid["epoch"]))


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    return bench.labels((0, cell["epoch"]), ids)


def best_epoch(rows: Students) -> int:
    """The epoch of the highest mean accuracy; of equal ones the first."""
    return int(max(rows.values("epoch"), key=lambda epoch: rows.where(epoch=epoch).spread().mean))


def _report(bench: Workbench, rows: Students) -> Report:
    ipcs = rows.values("ipc")
    by_epoch = [
        [
            str(epoch),
            percent(bench.experts[0].accuracy(epoch)),
            f"{rows.where(epoch=epoch).spread('label_entropy').mean:.2f}",
            *(rows.where(ipc=ipc, epoch=epoch).spread().percent() for ipc in ipcs),
        ]
        for epoch in rows.values("epoch")
    ]
    best = {ipc: best_epoch(rows.where(ipc=ipc)) for ipc in ipcs}
    front = [
        [
            str(ipc),
            str(epoch),
            percent(bench.experts[0].accuracy(epoch)),
            f"{rows.where(ipc=ipc, epoch=epoch).spread('label_entropy').mean:.2f}",
            rows.where(ipc=ipc, epoch=epoch).spread().percent(),
        ]
        for ipc, epoch in best.items()
    ]
    order = [best[ipc] for ipc in sorted(ipcs)]
    grows = all(a <= b for a, b in pairwise(order)) and order[0] < order[-1]
    finding = f"Best expert epoch by images per class: {', '.join(f'{ipc}: {best[ipc]}' for ipc in sorted(ipcs))}"
    if len(ipcs) > 1:
        grows_or_not = "grows" if grows else "does not grow steadily"
        finding += f"; it {grows_or_not} with the number of images here"
    tables = [
        Table(
            "Test accuracy of students in percent, by the expert's epoch; entropy of the labels in nats.",
            ["epoch", "expert, %", "entropy", *(f"{ipc} images per class" for ipc in ipcs)],
            by_epoch,
        ),
        Table(
            "Pareto front: for each number of images the expert that teaches best.",
            ["images per class", "best epoch", "expert, %", "entropy", "student, %"],
            front,
        ),
    ]
    panels = [
        lines_panel(rows, "epoch", "ipc", "Students by the expert's epoch", "expert epoch"),
        lines_panel(rows, "epoch", None, "Entropy of the labels", "expert epoch", what="label_entropy"),
    ]
    return Report(tables, [f"{finding}."], panels)


STUDY = Study(
    name="expert-epoch",
    question="Expert epoch: how long should an expert train before it teaches?",
    axes=(
        Axis("ipc", int, (1, 10, 50), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: all that are kept]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
