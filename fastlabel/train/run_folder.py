"""The folder of one training run: config.json, metrics.jsonl, epoch-NNN.pt and last.pt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastlabel.digests import first_difference
from fastlabel.errors import InputError
from fastlabel.system.atomic_files import PARTIAL, write_file
from fastlabel.train.checkpoint import read_checkpoint

STATE = ("optimizer", "loader", "ranks")  # what last.pt holds besides a checkpoint
_ADDED = {"views_per_image": 1}  # what a run was of which earlier versions of fastlabel wrote nothing


@dataclass(frozen=True)
class Run:
    """A run's folder. `identity` says what the run is: a folder continues only with the same identity."""

    path: Path
    identity: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, resume: bool) -> dict[str, Any] | None:
        """Create the folder, or continue in it with `resume`: the state to go on from, if there is one.

        config.json keeps identity and arguments; metrics after that state are forgotten, a resumed run writes them
        again. Where there is none, they are kept in metrics-before.jsonl. Raises InputError, with nothing touched,
        when it holds anything and `resume` is off, or another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: a run needs a folder")
        # A partial file is what a killed run left.
        partial = list(self.path.glob(f"*{PARTIAL}")) if self.path.is_dir() else []
        if self.path.is_dir() and set(self.path.iterdir()) - set(partial):
            self._check_same(resume)
            last = self._last()
            self._rewind(last["epoch"] if last else 0)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            config = {"run": self.identity, "arguments": self.arguments}
            write_file(self.path / "config.json", json.dumps(config, indent=2) + "\n")
            last = None
        for path in partial:
            path.unlink(missing_ok=True)
        return last

    def _check_same(self, resume: bool) -> None:
        try:
            before = json.loads((self.path / "config.json").read_text())["run"]
            before = {name: value for name, value in _ADDED.items() if name in self.identity} | before
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not empty and holds no run (no readable config.json): choose another folder"
            ) from error
        difference = first_difference(before, json.loads(json.dumps(self.identity)))
        if difference is not None:
            where, found, wanted = difference
            raise InputError(
                f"{self.path} holds another run: its {where} is {found}, this one has {wanted}; choose another folder"
            )
        if not resume:
            raise InputError(f"{self.path} already holds this run: resume it, or choose another folder")

    def _last(self) -> dict[str, Any] | None:
        path = self.path / "last.pt"
        if not path.exists():
            return None
        last = read_checkpoint(path)
        missing = [name for name in STATE if name not in last]
        if missing:
            raise InputError(
                f"{path} cannot be resumed, it lacks {', '.join(missing)}: another version of fastlabel wrote it"
            )
        return last

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of one epoch to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of every epoch so far, oldest first; a line cut short by a crash ends them."""
        return list(self._whole_lines())

    def _whole_lines(self) -> Iterator[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                yield json.loads(line)
            except ValueError:
                return

    def _rewind(self, epoch: int) -> None:
        if epoch == 0 and (before := self.metrics()):
            with open(self.path / "metrics-before.jsonl", "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in before)
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["epoch"] <= epoch]
        write_file(self.path / "metrics.jsonl", "".join(kept))
