"""Labels averaged over experts, before or after the softmax (arXiv 2406.10485, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels import ops as label_ops
from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Expert, Workbench
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study

USUAL = ("mean-logits", "mean-probs")
RULES = (*USUAL, "scaled-logits", "by-accuracy")


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    members = grid["members"] or range(1, len(bench.experts) + 1)
    if not all(1 <= count <= len(bench.experts) for count in members):
        raise InputError(f"there are {len(bench.experts)} experts; members cannot be {list(members)}")
    rules = grid["rule"]
    if unknown := set(rules) - set(RULES):
        raise InputError(f"unknown rule {', '.join(sorted(unknown))}: known are {', '.join(RULES)}")
    epochs = bench.epochs_of(grid["epoch"] or (bench.experts[0].final,))
    return [
        {"ipc": ipc, "epoch": epoch, "members": count, "rule": rule}
        for ipc in grid["ipc"]
        for epoch in epochs
        for count in members
        for rule in (rules if count > 1 else rules[:1])  # one expert is the same by every rule
    ]


def _experts(bench: Workbench, cell: Params) -> list[Expert]:
    return [(number, cell["epoch"]) for number in range(cell["members"])]


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    labels = [bench.labels(expert, ids) for expert in _experts(bench, cell)]
    if cell["rule"] == "scaled-logits" and len(labels) > 1:
        return label_ops.average_scaled_logits(labels)
    if cell["rule"] == "by-accuracy" and len(labels) > 1:
        accuracies = [bench.experts[number].accuracy(epoch) for number, epoch in _experts(bench, cell)]
        return label_ops.average_logits(labels, weights=label_ops.accuracy_weights(accuracies))
    if cell["rule"] != "mean-probs":
        return label_ops.average_logits(labels)
    return label_ops.average([one.sparse() for one in labels])


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings = [], []
    for cell, some in rows.cells():
        rule = "-" if cell["members"] == 1 else cell["rule"]
        entropy = f"{some.spread('label_entropy').mean:.2f}"
        top1 = f"{100 * some.spread('label_top1').mean:.1f}"
        lines.append([cell["ipc"], cell["epoch"], cell["members"], rule, entropy, top1, some.spread().percent()])
    settings = list(product(rows.values("ipc"), rows.values("epoch")))
    for ipc, epoch in settings:
        some = rows.where(ipc=ipc, epoch=epoch)
        single = some.where(members=1)
        best, of = max(some.cells(), key=lambda pair: pair[1].spread().mean)
        finding = (
            f"{ipc} images per class, epoch {epoch}: best with {best['members']} expert(s), {of.spread().percent()} %"
        )
        if len(single):
            finding += f"; one alone gives {single.spread().percent()} %"
        findings.append(finding + ".")
    table = Table(
        "Test accuracy of students in percent; entropy of the labels in nats, and how often their top class is true.",
        ["images per class", "epoch", "experts", "rule", "entropy", "label top-1, %", "student, %"],
        [[str(value) for value in line] for line in lines],
    )
    panels = [
        lines_panel(
            rows.where(ipc=ipc, epoch=epoch),
            "members",
            "rule",
            f"{ipc} images per class, epoch {epoch}",
            "experts averaged",
        )
        for ipc, epoch in settings
    ]
    return Report([table], findings, panels)


STUDY = Study(
    name="ensemble",
    question="Ensemble: do several experts label better than one?",
    axes=(
        Axis("ipc", int, (10,), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: the last]"),
        Axis("members", int, None, "How many experts.  [default: 1, 2, ... all]"),
        Axis("rule", str, USUAL, f"{', '.join(RULES)}: docs/labels.md."),
    ),
    cells=_cells,
    experts=_experts,
    target=_target,
    report=_report,
)
