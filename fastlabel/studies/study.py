"""What a study is: a grid of cells, the labels that each cell's students train on, and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.soft_label_loss import SoftLabelLoss
from fastlabel.studies.config import Params, StudyConfig, Value
from fastlabel.studies.context import Expert, Workbench
from fastlabel.studies.report import Report
from fastlabel.studies.results import Students
from fastlabel.train.recipes import Recipe

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """One axis of a study's grid, and an option of its command, which may be given several times.

    `default` None: as `help` says.
    """

    name: str
    type: type
    default: tuple[Value, ...] | None
    help: str


def random_samples(bench: Workbench, cell: Params, repeat: int) -> Ids:
    """Random images, as many per class as the cell's "ipc"."""
    return bench.random_ids(int(cell["ipc"]), repeat)


@dataclass(frozen=True)
class Training:
    """How the students of a cell train: the recipe, and what they make of soft labels; None: their cross-entropy."""

    recipe: Recipe
    use: SoftLabelLoss | None = None


def usual_training(bench: Workbench, cell: Params) -> Training:
    """As the configuration says, in all cells alike."""
    return Training(bench.config.recipe)


@dataclass(frozen=True)
class Study:
    """A study, in terms of its cells.

    Attributes:
        name: of the command, and in `registry.STUDIES`.
        question: what it asks, for the report.
        axes: of the grid.
        cells: all cells of the grid, each a dict of plain values.
        experts: which labels a cell needs.
        target: the labels that a cell's students train on, for samples in this order; None is hard labels.
        samples: the images that they train on.
        training: how they train.
        extra: columns of its own that the result of a cell gets, from the accuracies by class and the samples.
        report: what came out.
    """

    name: str
    question: str
    axes: tuple[Axis, ...]
    cells: Callable[[Workbench, Mapping[str, Any]], list[Params]]
    experts: Callable[[Workbench, Params], Sequence[Expert]]
    target: Callable[[Workbench, Params, Ids, int], SoftLabels | None]
    report: Callable[[Workbench, Students], Report]
    samples: Callable[[Workbench, Params, int], Ids] = random_samples
    training: Callable[[Workbench, Params], Training] = usual_training
    extra: Callable[[Workbench, Params, Sequence[float]], dict[str, Any]] = field(default=lambda bench, cell, acc: {})

    def grid(self, config: StudyConfig) -> dict[str, Any]:
        """The values of each axis: asked for, or the usual ones; None where the study chooses."""
        unknown = set(config.grid) - {axis.name for axis in self.axes}
        if unknown:
            raise InputError(f"{self.name} has no axis {', '.join(sorted(unknown))}")
        given = {axis.name: config.grid.get(axis.name) or axis.default or () for axis in self.axes}
        return {axis.name: tuple(map(axis.type, given[axis.name])) or None for axis in self.axes}


def crossed(**axes: Sequence[Any]) -> list[Params]:
    """Every combination of the values of some axes."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def one_expert(bench: Workbench, cell: Params) -> list[Expert]:
    """The first expert after the cell's "epoch"; none for hard labels."""
    return [] if cell.get("labels") == "hard" else [(0, int(cell["epoch"]))]
