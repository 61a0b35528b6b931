"""Random images with soft labels of an early expert, against hard labels (arXiv 2406.10485, section 3, table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table, lines_panel, percent
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, one_expert

# CIFAR-10, ConvNet-D3, ZCA: images per class -> (expert epoch, its test accuracy, student's mean and deviation), in %.
PAPER_TABLE_2 = {1: (20, 56.0, 21.1, 0.5), 10: (44, 65.1, 46.3, 0.8), 50: (128, 74.9, 62.1, 0.5)}


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    ipcs, epochs = grid["ipc"], grid["epoch"] or (bench.experts[0].final,)
    if len(epochs) == 1:
        epochs = epochs * len(ipcs)
    if len(epochs) != len(ipcs):
        raise InputError(f"give one --epoch for all, or one for each of the {len(ipcs)} values of --ipc in their order")
    if len(set(ipcs)) < len(ipcs):
        raise InputError("an --ipc is given twice: each has one expert epoch")
    bench.epochs_of(epochs)
    return [
        {"ipc": ipc, "labels": labels, "epoch": epoch}
        for ipc, epoch in zip(ipcs, epochs, strict=True)
        for labels in ("hard", "soft")
    ]


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    return None if cell["labels"] == "hard" else bench.labels((0, cell["epoch"]), ids)


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings = [], []
    for ipc in rows.values("ipc"):
        some = rows.where(ipc=ipc)
        hard, soft = (some.where(labels=labels) for labels in ("hard", "soft"))
        epoch = soft[0].cell["epoch"]
        lines.append(
            [
                str(ipc),
                str(epoch),
                percent(bench.experts[0].accuracy(epoch)),
                hard.spread().percent(),
                soft.spread().percent(),
                f"{soft.spread('label_entropy').mean:.2f}",
                _paper(bench, ipc),
            ]
        )
        gain = 100 * (soft.spread().mean - hard.spread().mean)
        findings.append(f"{ipc} images per class: soft labels change accuracy by {gain:+.1f} points.")
    table = Table(
        "Test accuracy in percent, mean ± standard deviation over students; label entropy in nats. Paper: table 2 of "
        "arXiv 2406.10485, CIFAR-10, ConvNet-D3, whitened, 3,000 epochs (in brackets its expert's epoch and accuracy).",
        ["images per class", "expert epoch", "expert, %", "hard, %", "soft, %", "entropy", "paper, soft, %"],
        lines,
    )
    panel = lines_panel(rows, "ipc", "labels", "Hard and soft labels on the same images", "images per class", log=True)
    return Report([table], findings, [panel])


def _paper(bench: Workbench, ipc: int) -> str:
    """The paper's figure, where this is its setting: ten classes at 32 pixels, whitened, a ConvNet-D3."""
    spec = bench.reference.spec
    same = (spec.arch, bench.arch, spec.size, spec.num_classes) == ("zca:convnet-d3", "convnet-d3", 32, 10)
    if not same or ipc not in PAPER_TABLE_2:
        return "-"
    epoch, expert, mean, std = PAPER_TABLE_2[ipc]
    return f"{mean} ± {std} ({epoch}: {expert})"


STUDY = Study(
    name="baseline",
    question="Baseline: soft and hard labels on the same random images",
    axes=(
        Axis("ipc", int, (1, 10, 50), "Images per class."),
        Axis("epoch", int, None, "Expert epoch, one for all or one for each --ipc.  [default: the last]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
)
