"""Random images with soft labels of an early expert, against hard labels (arXiv 2406.10485, section 3, table 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.soft_label_loss import SoftLabelLoss
from fastlabel.store.store import LabelStore
from fastlabel.studies.config import Params, StudyConfig
from fastlabel.studies.context import Expert, Workbench
from fastlabel.studies.report import Report, Table, lines_panel, percent
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, Training, crossed, one_expert
from fastlabel.train.named_recipes import NAMES, find_recipe

# CIFAR-10, ConvNet-D3, ZCA: images per class -> (expert epoch, its test accuracy, student's mean and deviation), in %.
PAPER_TABLE_2 = {1: (20, 56.0, 21.1, 0.5), 10: (44, 65.1, 46.3, 0.8), 50: (128, 74.9, 62.1, 0.5)}

TRAINING_AXES = ("recipe", "lr")


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    ipcs, epochs = grid["ipc"], grid["epoch"] or (bench.experts[0].final,)
    if len(epochs) == 1:
        epochs = epochs * len(ipcs)
    if len(epochs) != len(ipcs):
        raise InputError(f"give one --epoch for all, or one for each of the {len(ipcs)} values of --ipc in their order")
    if len(set(ipcs)) < len(ipcs):
        raise InputError("an --ipc is given twice: each has one expert epoch")
    bench.epochs_of(epochs)
    cells = [
        {"ipc": ipc, "labels": labels, "epoch": epoch, **how}
        for how in _settings(grid)
        for ipc, epoch in zip(ipcs, epochs, strict=True)
        for labels in ("hard", "soft", *(("learned",) if grid["learned"] else ()))
    ]
    for cell in cells:
        if cell["labels"] == "learned":
            cell["learned"] = _learned_path(grid["learned"])
    for cell in cells:  # what cannot be is an error before anything is written
        use = training_of(bench.config, cell).use
        if use is not None:
            use.check_labels(bench.num_classes, bench.num_classes)
    return cells


def _learned_path(values: Sequence[str]) -> str:
    if len(values) > 1:
        raise InputError(f"one store of learned labels can be given, not {len(values)}")
    return values[0]


def _learned(bench: Workbench, path: str, ids: Ids) -> SoftLabels:
    """The labels that came with the images, of the whole images: view 0 of a store."""
    store = LabelStore.open(path)
    store.check_dataset(bench.data.num_samples, bench.data.fingerprint(), bench.data.path)
    if store.views.name != "identity":
        raise InputError(f"{path} has {store.views.name} views: learned labels are of whole images, view identity")
    return store.plane(0, device=bench.device)[torch.from_numpy(ids).to(bench.device)]


def _experts(bench: Workbench, cell: Params) -> list[Expert]:
    return [] if cell["labels"] == "learned" else one_expert(bench, cell)


def _settings(grid: Mapping[str, Any]) -> list[Params]:
    """Recipes and rates, where they are asked for: a cell says neither else."""
    axes = {name: grid[name] for name in TRAINING_AXES if grid[name]}
    return crossed(**axes) if axes else [{}]


def training_of(config: StudyConfig, cell: Params) -> Training:
    """The recipe of a cell in as many epochs as the study has, at the rate of the cell, where it says these.

    Of a named recipe everything counts but the number of epochs, what it says of views, and the precision.
    """
    recipe, use = config.recipe, None
    if "recipe" in cell:
        named = find_recipe(cell["recipe"]).scaled(recipe.epochs)
        named.pop("views_per_image", None)
        recipe = replace(named.pop("recipe"), amp=recipe.amp)
        if cell["labels"] != "hard":
            use = SoftLabelLoss(epochs=recipe.epochs, label_smoothing=recipe.label_smoothing, **named)
    if "lr" in cell:
        recipe = replace(recipe, lr=cell["lr"])
    return Training(recipe, use)


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    if cell["labels"] == "learned":
        return _learned(bench, str(cell["learned"]), ids)
    return None if cell["labels"] == "hard" else bench.labels((0, cell["epoch"]), ids)


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings, panels = [], [], []
    learned = "learned" in rows.values("labels")
    axes = [name for name in TRAINING_AXES if rows.values(name)]
    for how in crossed(**{name: rows.values(name) for name in axes}) if axes else [{}]:
        same = rows.where(**how)
        words = ", ".join(f"{name} {value}" for name, value in how.items())
        for ipc in same.values("ipc"):
            some = same.where(ipc=ipc)
            hard, soft = (some.where(labels=labels) for labels in ("hard", "soft"))
            extra = [some.where(labels="learned").spread().percent()] if learned else []
            lines.append([*map(str, how.values()), *_line(bench, ipc, hard, soft), *extra])
            gain = 100 * (soft.spread().mean - hard.spread().mean)
            findings.append(
                f"{words}{': ' * bool(words)}{ipc} images per class: soft labels change accuracy by {gain:+.1f} points."
            )
        title = f"Hard and soft labels{f', {words}' if words else ' on the same images'}"
        panels.append(lines_panel(same, "ipc", "labels", title, "images per class", log=True))
    table = Table(
        "Test accuracy in percent, mean ± standard deviation over students; label entropy in nats. Paper: table 2 of "
        "arXiv 2406.10485, CIFAR-10, ConvNet-D3, whitened, 3,000 epochs (in brackets its expert's epoch and accuracy).",
        [*axes, "images per class", "expert epoch", "expert, %", "hard, %", "soft, %", "entropy", "paper, soft, %"]
        + ["learned, %"] * learned,
        lines,
    )
    return Report([table], findings, panels)


def _line(bench: Workbench, ipc: int, hard: Students, soft: Students) -> list[str]:
    epoch = soft[0].cell["epoch"]
    return [
        str(ipc),
        str(epoch),
        percent(bench.experts[0].accuracy(epoch)),
        hard.spread().percent(),
        soft.spread().percent(),
        f"{soft.spread('label_entropy').mean:.2f}",
        _paper(bench, ipc),
    ]


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
        Axis("recipe", str, None, f"{', '.join(NAMES)} or a FILE.toml, in --epochs.  [default: the options below]"),
        Axis(
            "learned",
            str,
            None,
            "STORE.zarr of labels that came with the images.  [default: none]",
        ),
        Axis("lr", float, None, "Highest learning rates.  [default: of the recipe, or 0.01]"),
    ),
    cells=_cells,
    experts=_experts,
    target=_target,
    training=lambda bench, cell: training_of(bench.config, cell),
    report=_report,
)
