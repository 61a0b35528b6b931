"""What students learn of a class that has no image, or no part in any label (arXiv 2406.10485, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.sparse import SparseLabels
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Draw, Report, Table, percent
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, one_expert, random_samples

TREATMENTS = ("control", "no images", "no label")
NOTHING = -1


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    classes = grid["class"] or range(bench.num_classes)
    if not all(0 <= c < bench.num_classes for c in classes):
        raise InputError(f"classes are 0 to {bench.num_classes - 1}, not {list(classes)}")
    if untested := [c for c in classes if not (bench.val.targets == c).any()]:
        raise InputError(f"{bench.val.path} has no image of class {untested[0]}: name others with --class")
    epoch = bench.one_epoch(grid["epoch"])
    cells = []
    for ipc in grid["ipc"]:
        # One control serves all classes.
        cells.append({"ipc": ipc, "epoch": epoch, "treatment": "control", "class": NOTHING})
        cells += [
            {"ipc": ipc, "epoch": epoch, "treatment": treatment, "class": c}
            for c in classes
            for treatment in TREATMENTS[1:]
        ]
    return cells


def _samples(bench: Workbench, cell: Params, repeat: int) -> Ids:
    ids = random_samples(bench, cell, repeat)
    return ids[bench.data.targets[ids] != cell["class"]] if cell["treatment"] == "no images" else ids


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    """As in the paper: the class's column is zero in the labels of all other images, which are not normalised again."""
    labels = bench.labels((0, cell["epoch"]), ids).sparse()
    if cell["treatment"] != "no label":
        return labels
    others = torch.from_numpy(bench.data.targets[ids] != cell["class"]).to(labels.device)
    removed = others[:, None] & (labels.classes == cell["class"])
    return SparseLabels(labels.classes, labels.probs.masked_fill(removed, 0), labels.rest, labels.num_classes)


def _extra(bench: Workbench, cell: Params, by_class: Sequence[float]) -> dict[str, Any]:
    return {} if cell["class"] == NOTHING else {"class_accuracy": by_class[cell["class"]]}


def _class_accuracy(rows: Students, treatment: str, c: int) -> float:
    """Mean accuracy on class c under a treatment."""
    chosen = (
        rows.where(treatment=treatment) if treatment == "control" else rows.where(treatment=treatment, **{"class": c})
    )
    return float(np.mean([row.result["by_class"][c] for row in chosen]))


def _removed(rows: Students) -> list[int]:
    return [c for c in rows.values("class") if c != NOTHING]


def _names(bench: Workbench) -> Sequence[str]:
    return bench.data.class_names or tuple(map(str, range(bench.num_classes)))


def _report(bench: Workbench, rows: Students) -> Report:
    names = _names(bench)
    tables = [_table(rows.where(ipc=ipc), ipc, names) for ipc in rows.values("ipc")]
    findings = [_finding(rows.where(ipc=ipc), ipc, 1 / bench.num_classes) for ipc in rows.values("ipc")]
    return Report(tables, findings, [_panel(rows.where(ipc=ipc), ipc, names) for ipc in rows.values("ipc")])


def _table(rows: Students, ipc: int, names: Sequence[str]) -> Table:
    lines = [[names[c], *(percent(_class_accuracy(rows, t, c)) for t in TREATMENTS)] for c in _removed(rows)]
    return Table(
        f"{ipc} images per class: test accuracy in percent on one class, in the control, without its images, and with "
        "its column removed from the labels of all other images.",
        ["class", *TREATMENTS],
        [*lines, ["mean", *map(percent, _means(rows))]],
    )


def _means(rows: Students) -> list[float]:
    return [float(np.mean([_class_accuracy(rows, t, c) for c in _removed(rows)])) for t in TREATMENTS]


def _finding(rows: Students, ipc: int, chance: float) -> str:
    control, no_images, no_label = map(percent, _means(rows))
    above = sum(_class_accuracy(rows, "no images", c) > chance for c in _removed(rows))
    return (
        f"{ipc} images per class: without its images a class is still recognised with {no_images} % on average "
        f"(control {control} %, guessing among all classes {percent(chance)} %), above guessing for {above} of "
        f"{len(_removed(rows))} classes; with its images and without its column in the other labels, {no_label} %."
    )


def _panel(rows: Students, ipc: int, names: Sequence[str]) -> Draw:
    def draw(axes: Any) -> None:
        classes = _removed(rows)
        for shift, treatment in enumerate(TREATMENTS):
            heights = [100 * _class_accuracy(rows, treatment, c) for c in classes]
            axes.bar([i + (shift - 1) * 0.27 for i in range(len(classes))], heights, 0.26, label=treatment)
        axes.set_xticks(range(len(classes)), [names[c] for c in classes], rotation=60, fontsize="small")
        axes.set_ylabel("test accuracy on the class, %")
        axes.set_title(f"{ipc} images per class")
        axes.legend(frameon=False, fontsize="small")

    return draw


STUDY = Study(
    name="zero-shot",
    question="Zero-shot: what do students learn of a class from the labels of others?",
    axes=(
        Axis("ipc", int, (10,), "Images per class."),
        Axis("epoch", int, None, "Expert epoch.  [default: the last]"),
        Axis("class", int, None, "Classes to remove, one at a time.  [default: each]"),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    report=_report,
    samples=_samples,
    extra=_extra,
)
