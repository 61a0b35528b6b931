"""The experts of a study as they lie on disk: those of `study experts`, or one run of `train-teacher`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastlabel.errors import InputError
from fastlabel.studies.experts import expert_folder
from fastlabel.teachers.teacher import Teacher, load_teacher
from fastlabel.train.checkpoint import epoch_path
from fastlabel.train.run_folder import Run

_EPOCH = re.compile(r"epoch-(\d+)\.pt")


@dataclass(frozen=True)
class ExpertRun:
    """One expert: its checkpoints by epoch.

    Attributes:
        folder: with config.json, metrics.jsonl and epoch-NNN.pt.
        epochs: that have a checkpoint, ascending; 0 is the initialisation.
    """

    folder: Path
    epochs: tuple[int, ...]

    @property
    def last(self) -> int:
        return self.epochs[-1]

    @property
    def final(self) -> int:
        """The last epoch, of a run that got there. InputError for one that was stopped before."""
        planned = self.identity().get("recipe", {}).get("epochs", self.last)
        if self.last < planned:
            raise InputError(
                f"{self.folder} was stopped after epoch {self.last} of {planned}: finish it with the command that "
                "began it, or say which --epoch to take"
            )
        return self.last

    def teacher(self, epoch: int, device: torch.device) -> Teacher:
        """The expert as it was after an epoch. InputError where no checkpoint of it is kept."""
        self.check(epoch)
        return load_teacher(epoch_path(self.folder, epoch), device)

    def check(self, epoch: int) -> None:
        """InputError unless there is a checkpoint of this epoch."""
        if epoch not in self.epochs:
            raise InputError(
                f"{self.folder} has no checkpoint of epoch {epoch}; it has those of epochs {_ranges(self.epochs)}"
            )

    def accuracy(self, epoch: int) -> float:
        """Test accuracy after an epoch, a share of 1; NaN where it was not measured."""
        return self._metrics().get(epoch, {}).get("val_accuracy", float("nan"))

    def identity(self) -> Any:
        """What config.json says of the run."""
        try:
            return json.loads((self.folder / "config.json").read_text())["run"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.folder} is not a run of experts or teachers: it has no readable config.json"
            ) from error

    def _metrics(self) -> dict[int, dict[str, Any]]:
        return {line["epoch"]: line for line in Run(self.folder, {}).metrics()}


def find_experts(folder: str | Path) -> list[ExpertRun]:
    """The experts of a folder, by number. InputError where there are none."""
    folder = Path(folder)
    runs = [folder] if _epochs(folder) else []
    while not _epochs(folder) and _epochs(expert_folder(folder, len(runs))):
        runs.append(expert_folder(folder, len(runs)))
    if not runs:
        raise InputError(
            f"{folder} holds no experts; train some with `fastlabel study experts DATA --val VAL --out {folder}`, "
            "or give the folder of a train-teacher run"
        )
    return [ExpertRun(run, _epochs(run)) for run in runs]


def _epochs(folder: Path) -> tuple[int, ...]:
    matches = (_EPOCH.fullmatch(path.name) for path in folder.glob("epoch-*.pt"))
    return tuple(sorted(int(match[1]) for match in matches if match))


def _ranges(numbers: tuple[int, ...]) -> str:
    """0-3, 8, 10-12"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
