"""How a label is used: temperatures and their schedules, kept classes, losses, on the same stored labels and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels.choices import LOSSES, TAILS
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.schedules import TemperatureSchedule
from fastlabel.labels.soft_label_loss import SoftLabelLoss
from fastlabel.studies.config import Params, StudyConfig
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, Training, crossed, one_expert

ALL = "all"
LOGITS = ("mse-logits", "gift")  # without a temperature, on all classes


def use_of(config: StudyConfig, cell: Params) -> SoftLabelLoss:
    """What the students of a cell make of their labels, at one temperature for both.

    Times the squared temperature, so that SGD's steps do not shrink as temperatures grow.
    """
    return SoftLabelLoss(
        cell["label-loss"],
        cell["temperature"],
        cell["temperature"],
        temperature_squared=cell["label-loss"] in ("soft-ce", "kl"),
        keep=None if cell["keep"] == ALL else int(cell["keep"]),
        tail=cell["tail"],
        epochs=config.recipe.epochs,
    )


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    for name, known in (("label-loss", LOSSES), ("tail", TAILS)):
        if unknown := set(grid[name]) - set(known):
            raise InputError(f"unknown {name} {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    for keep in grid["keep"]:
        if keep != ALL and not (keep.isascii() and keep.isdigit() and 1 <= int(keep) <= bench.num_classes):
            raise InputError(f"keep must be 1 to {bench.num_classes} or {ALL}, found {keep!r}")
    for temperature in grid["temperature"]:
        TemperatureSchedule.parse("temperature", temperature)
    epochs = bench.epochs_of(grid["epoch"] or (bench.experts[0].final,))
    cells = crossed(
        ipc=grid["ipc"], epoch=epochs, **{name: grid[name] for name in ("label-loss", "temperature", "keep")}
    )
    # What is left of a label does not matter where all of it is kept.
    cells = [{**cell, "tail": tail} for cell in cells for tail in _tails(cell, grid["tail"])]
    cells = [cell for cell in cells if cell["label-loss"] not in LOGITS or _plain(cell)]
    if not cells:
        raise InputError(f"{' and '.join(LOGITS)} are for a temperature of 1 and all classes: give these too")
    for cell in cells:
        use_of(bench.config, cell)
    return cells


def _tails(cell: Params, tails: tuple[str, ...]) -> tuple[str, ...]:
    return ("uniform",) if cell["keep"] == ALL else tails


def _plain(cell: Params) -> bool:
    schedule = TemperatureSchedule.parse("temperature", cell["temperature"])
    return schedule.plain() == 1 and cell["keep"] == ALL


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels:
    return bench.labels((0, cell["epoch"]), ids)


def label_bytes(cell: Params, num_classes: int) -> int:
    """Of a label that keeps so many classes, in memory: ids, codes and the tail, before compression."""
    kept = num_classes if cell["keep"] == ALL else int(cell["keep"])
    return kept * ((2 if num_classes <= 1 << 16 else 4) + 1) + 4


def _report(bench: Workbench, rows: Students) -> Report:
    temperatures = rows.values("temperature")
    kinds = list(dict.fromkeys((row.cell["label-loss"], row.cell["keep"], row.cell["tail"]) for row in rows))
    tables, findings, panels = [], [], []
    for ipc in rows.values("ipc"):
        for epoch in rows.values("epoch"):
            some, lines = rows.where(ipc=ipc, epoch=epoch), []
            for loss, keep, tail in kinds:
                kind = some.where(**{"label-loss": loss}, keep=keep, tail=tail)
                cells = [kind.where(temperature=temperature) for temperature in temperatures]
                size = f"{kind.spread('label_bytes').mean:.0f}"
                lines.append([loss, keep, tail, size, *(one.spread().percent() if len(one) else "-" for one in cells)])
            caption = f"{ipc} images per class, expert epoch {epoch}: test accuracy in percent by temperature."
            headers = ["loss", "kept", "tail", "bytes a label", *(f"T = {value}" for value in temperatures)]
            tables.append(Table(caption, headers, lines))
            cell, best = max(some.cells(), key=lambda pair: pair[1].spread().mean)
            findings.append(
                f"{ipc} images per class, epoch {epoch}: best with {cell['label-loss']} at T = {cell['temperature']}, "
                f"{cell['keep']} classes kept, tail {cell['tail']}: {best.spread().percent()} %."
            )
            loss = kinds[0][0]
            title = f"{ipc} images per class, {loss}, epoch {epoch}"
            panels.append(lines_panel(some.where(**{"label-loss": loss}), "temperature", "keep", title, "temperature"))
    return Report(tables, findings, panels)


STUDY = Study(
    name="label-use",
    question="How labels are used: temperatures, kept classes and losses",
    axes=(
        Axis("ipc", int, (10,), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: the last]"),
        Axis("temperature", str, ("1", "4", "20", "cosine:20,2"), "Of labels and students: a number or a schedule."),
        Axis("keep", str, (ALL, "3"), "Classes of a label that are used, or all."),
        Axis("tail", str, ("renormalise",), f"What becomes of the others: {', '.join(TAILS)}."),
        Axis("label-loss", str, ("kl",), f"{', '.join(LOSSES)}: docs/recipes.md."),
    ),
    cells=_cells,
    experts=one_expert,
    target=_target,
    training=lambda bench, cell: Training(bench.config.recipe, use_of(bench.config, cell)),
    extra=lambda bench, cell, by_class: {"label_bytes": label_bytes(cell, bench.num_classes)},
    report=_report,
)
