"""Which places of a soft label matter: the i-th most likely class swapped with the least likely one (section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels import ops as label_ops
from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, crossed, one_expert

UNSWAPPED = 0
"""The control: no class is the 0-th most likely one."""


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    ranks = grid["rank"] or range(1, bench.num_classes)
    if not all(1 <= rank < bench.num_classes for rank in ranks):
        raise InputError(f"ranks to swap are 1 (the top class) to {bench.num_classes - 1}, not {list(ranks)}")
    return crossed(ipc=grid["ipc"], epoch=[bench.one_epoch(grid["epoch"])], rank=[UNSWAPPED, *ranks])


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    labels = bench.labels((0, cell["epoch"]), ids).sparse()
    return labels if cell["rank"] == UNSWAPPED else label_ops.swap(labels, cell["rank"] - 1)


def _report(bench: Workbench, rows: Students) -> Report:
    tables, findings = [], []
    for ipc in rows.values("ipc"):
        some = rows.where(ipc=ipc)
        control = some.where(rank=UNSWAPPED)
        lines = []
        for rank in some.values("rank"):
            spread = some.where(rank=rank).spread()
            lines.append(
                [
                    "none" if rank == UNSWAPPED else str(rank),
                    spread.percent(),
                    f"{100 * some.where(rank=rank).change_from(control).mean:+.1f}",
                ]
            )
        tables.append(
            Table(
                f"{ipc} images per class: test accuracy in percent when the i-th most likely class of each label is "
                "swapped with the least likely one.",
                ["i", "accuracy, %", "change, points"],
                lines,
            )
        )
        swapped = [rank for rank in some.values("rank") if rank != UNSWAPPED]
        worst = min(swapped, key=lambda rank: some.where(rank=rank).spread().mean)
        finding = f"{ipc} images per class: swapping place {worst} hurts most"
        if len(control) > 1:
            changes = {rank: some.where(rank=rank).change_from(control) for rank in swapped}
            harmful = [str(rank) for rank, change in changes.items() if change.mean < -change.std]
            finding += f"; a loss larger than its standard deviation shows at places {', '.join(harmful) or 'none'}"
        findings.append(f"{finding}.")
    panel = lines_panel(rows, "rank", "ipc", "The i-th class swapped with the least likely", "i (0: no swap)")
    return Report(tables, findings, [panel])


STUDY = Study(
    name="label-swap",
    question="Label swap: which places of a soft label matter?",
    axes=(
        Axis("ipc", int, (1, 10), "Images per class."),
        Axis("epoch", int, None, "Expert epoch.  [default: the last]"),
        Axis("rank", int, None, "Places to swap, 1 is the top class.  [default: all]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
