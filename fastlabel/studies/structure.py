"""Labels without what they say beyond the first class, shuffled or smoothed to equal entropy, against the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.labels import ops as label_ops
from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Draw, Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, crossed, one_expert

KINDS = {
    "real": "as the expert gave them",
    "shuffled": "the classes beyond the first at random",
    "smoothed": "the top class, the rest even, of the same entropy",
    "hard": "the true class",
}


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    epochs = bench.epochs_of(grid["epoch"] or (bench.experts[0].last,))
    soft = crossed(ipc=grid["ipc"], epoch=epochs, labels=[kind for kind in KINDS if kind != "hard"])
    return soft + crossed(ipc=grid["ipc"], labels=["hard"])


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    if cell["labels"] == "hard":
        return None
    labels = bench.labels((0, cell["epoch"]), ids).sparse()
    if cell["labels"] == "shuffled":
        return label_ops.shuffle_rest(labels, ids, bench.config.image_seed(repeat))
    return label_ops.smoothed_like(labels) if cell["labels"] == "smoothed" else labels


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings = [], []
    for cell, some in rows.cells():
        entropy = f"{some.spread('label_entropy').mean:.2f}"
        what = f"{cell['labels']}: {KINDS[cell['labels']]}"
        lines.append([str(cell["ipc"]), str(cell.get("epoch", "-")), what, entropy, some.spread().percent()])
    for ipc in rows.values("ipc"):
        for epoch in rows.values("epoch"):
            some = rows.where(ipc=ipc, epoch=epoch)
            real, shuffled, smoothed = (
                some.where(labels=kind).spread().mean for kind in ("real", "shuffled", "smoothed")
            )
            hard = rows.where(ipc=ipc, labels="hard").spread().mean
            findings.append(
                f"{ipc} images per class, epoch {epoch}: real labels are {100 * (real - shuffled):+.1f} points better "
                f"than shuffled ones, {100 * (real - smoothed):+.1f} than smoothed ones of equal entropy, "
                f"{100 * (real - hard):+.1f} than hard ones."
            )
    table = Table(
        "Test accuracy of students in percent; entropy of the labels in nats.",
        ["images per class", "epoch", "labels", "entropy", "student, %"],
        lines,
    )
    return Report([table], findings, [_panel(rows, epoch) for epoch in rows.values("epoch")])


def _panel(rows: Students, epoch: int) -> Draw:
    # Hard labels are of no epoch.
    some = Students([row for row in rows if row.cell.get("epoch", epoch) == epoch])
    return lines_panel(
        some, "ipc", "labels", f"Labels with and without structure, epoch {epoch}", "images per class", log=True
    )


STUDY = Study(
    name="structure",
    question="Structure: is it the entropy of soft labels that helps, or what they say?",
    axes=(
        Axis("ipc", int, (1, 10), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: the last]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
