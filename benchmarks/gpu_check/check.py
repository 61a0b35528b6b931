"""What every part is given, and how it is measured: cell by cell, each kept as JSON before the next one begins."""

from __future__ import annotations

import json
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastlabel.benchmarks.harness import machine
from fastlabel.benchmarks.question import Setup, plain
from fastlabel.errors import Interrupted
from fastlabel.system.devices import pick_device

Cell = tuple[str, Callable[[], Any]]
NOT_FINISHED = "not finished: the process ended in the midst of it"


@dataclass(frozen=True)
class Check(Setup):
    """A `Setup` whose photos and CIFAR-10 are those of the kit.

    Attributes:
        commit: of the code; None where nobody knows.
        cifar10: the kit's archive of train/CLASS/*.jpg and test/CLASS/*.jpg; None where there is no kit.
        deadline: of `time.monotonic`; no cell is begun after it.
    """

    commit: str | None = None
    cifar10: Path | None = None
    deadline: float = float("inf")

    @property
    def device(self) -> torch.device:
        """The GPU; without one, as a rehearsal, the CPU."""
        return pick_device("auto")


def check_of(kit: Path, folder: Path, quick: bool, budget: float, commit: str | None = None) -> Check:
    """The check with the images of a kit, as far as they are there."""
    photos, cifar10 = kit / "photos", kit / "cifar10.tar.xz"
    return Check(
        folder,
        photos if photos.is_dir() else None,
        rounds=1,
        quick=quick,
        commit=commit or _commit(),
        cifar10=cifar10 if cifar10.is_file() else None,
        deadline=time.monotonic() + budget,
    )


def measure(question: str, cells: Iterable[Cell], check: Check, out: Path) -> None:
    """Measure the cells that `out` does not hold yet, in order, until the deadline.

    `out` is written anew after each: nothing is lost when the process ends. A cell that fails is kept as its error, and
    measured again by the next call, as one that the deadline left out is.
    """
    result = _begun(question, check, out)
    done: dict[str, Any] = result["cells"]
    left = []
    for name, cell in cells:
        if name in done and "error" not in done[name]:
            continue
        if time.monotonic() > check.deadline:
            left.append(name)
            continue
        done[name] = {"error": NOT_FINISHED}
        _write(out, result)
        done[name] = _measured(cell)
        _write(out, result)
    result |= {"left_out": left, "complete": not left and not failed_cells(result)}
    _write(out, result)


def failed_cells(result: dict[str, Any]) -> dict[str, str]:
    """Errors by cell."""
    return {name: cell["error"] for name, cell in result["cells"].items() if "error" in cell}


def read(out: Path) -> dict[str, Any] | None:
    """What a file of results holds; None for none."""
    result: dict[str, Any] | None = json.loads(out.read_text()) if out.exists() else None
    return result


def _begun(question: str, check: Check, out: Path) -> dict[str, Any]:
    """The result of `out` to go on with, if it is of this code on this GPU; else a new one."""
    new: dict[str, Any] = {
        "question": question,
        "quick": check.quick,
        "commit": check.commit,
        "machine": machine(),
        "complete": False,
    }
    old = read(out)
    same = old is not None and all(old[key] == new[key] for key in ("quick", "commit"))
    cells = old["cells"] if old and same and old["machine"]["gpu"] == new["machine"]["gpu"] else {}
    return {**new, "cells": cells}


def _commit() -> str | None:
    """What git says of this checkout; None for a copy without git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or None


def _measured(cell: Callable[[], Any]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        figures: dict[str, Any] = plain(cell())
    except Interrupted:
        raise
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()
        figures = {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": lines[-12:]}
    return {**figures, "seconds_taken": round(time.monotonic() - started, 2)}


def _write(out: Path, result: dict[str, Any]) -> None:
    new = out.with_name(f"{out.name}.new")
    new.write_text(json.dumps(result, indent=1) + "\n")
    new.replace(out)
