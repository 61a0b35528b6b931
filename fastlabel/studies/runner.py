"""Runs the cells of a study: a student for each repeat, one line of JSON when it is done, none done twice."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastlabel.digests import first_difference
from fastlabel.errors import InputError
from fastlabel.labels import ops as label_ops
from fastlabel.labels.loss import SoftLabels
from fastlabel.labels.topk import TopKLabels
from fastlabel.models.architectures import build_model
from fastlabel.models.weights import weights_sha256
from fastlabel.store.store import LabelStore
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.config import Params, StudyConfig
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, write_results
from fastlabel.studies.resident_loader import ResidentLoader, whole_batches
from fastlabel.studies.results import Student, Students
from fastlabel.studies.study import Ids, Study, Training
from fastlabel.system.atomic_files import write_file
from fastlabel.system.host import hardware, versions
from fastlabel.system.progress import Progress
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import drops_last, seeded
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Evaluate, Trainer
from fastlabel.train.named_recipes import find_recipe
from fastlabel.train.objectives import PerSampleLoss, ScheduledLoss, cached_loss, cached_use, hard_loss

_GROWING = ("experts", "recipes", "learned")  # parts of config.json by name


@dataclass(frozen=True)
class Outcome:
    """What a study ended with.

    Attributes:
        seconds: all students together took, in this and earlier runs; `label_seconds` of it to look labels up.
        done, skipped: students of this run, and those that were there already.
    """

    out: Path
    rows: Students
    report: Report
    seconds: float
    label_seconds: float
    labelling_seconds: float
    done: int
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of each cell mean, deviation and number of its students."""
        cells = [{**cell, **asdict(rows.spread())} for cell, rows in self.rows.cells()]
        return {
            "out": str(self.out),
            "done": self.done,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "label_seconds": self.label_seconds,
            "cells": cells,
            "findings": list(self.report.findings),
        }


def run_study(study: Study, config: StudyConfig, command: str = "", progress: bool = False) -> Outcome:
    """Run what is not there yet in `config.out`, and write its results.

    Raises InputError for a folder that holds another study or the same one with another configuration, other than a
    larger grid or more repeats.
    """
    bench = Workbench(config)
    # A value that is given twice is one.
    cells = list({_key(cell, 0): cell for cell in study.cells(bench, study.grid(config))}.values())
    out = Path(config.out)
    _network(bench, config.seed)  # one that cannot be had is an error before anything is written
    _begin(out, _identity(study, bench, cells))
    started = time.monotonic()
    found = read_results(out)
    todo = [(cell, repeat) for cell in cells for repeat in range(config.repeats)]
    missing = [(cell, repeat) for cell, repeat in todo if _key(cell, repeat) not in found]
    chosen = _prepare(study, bench, missing, progress) if missing else []
    with Progress(study.name, sum(map(len, chosen)) * config.recipe.epochs, "images", shown=progress) as bar:
        for number, ((cell, repeat), ids) in enumerate(zip(missing, chosen, strict=True)):
            bar.note(f"student {number + 1} of {len(missing)}")
            result = _student(study, bench, cell, repeat, ids, bar.update)
            _append(out, cell, repeat, result)
            found[_key(cell, repeat)] = result
    rows = Students([Student(cell, repeat, found[_key(cell, repeat)]) for cell, repeat in todo])
    report = study.report(bench, rows)
    seconds, label_seconds = (sum(row.result[name] for row in rows) for name in ("seconds", "label_seconds"))
    outcome = Outcome(
        out, rows, report, seconds, label_seconds, bench.labelling_seconds, len(missing), len(todo) - len(missing)
    )
    write_results(out, study.question, _facts(study, bench, command, outcome, time.monotonic() - started), rows, report)
    return outcome


def _identity(study: Study, bench: Workbench, cells: Sequence[Params]) -> dict[str, Any]:
    config = bench.config
    numbers = sorted({0} | {number for cell in cells for number, _ in study.experts(bench, cell)})
    return {
        "study": study.name,
        "arch": bench.arch,
        "recipe": config.recipe.to_dict(),
        "augment": list(SiameseAugmentation.from_name(config.augment).strategy),
        "seed": config.seed,
        "same_images": config.same_images,
        "device": bench.device.type,
        "data": bench.data.fingerprint(),
        "val": bench.val.fingerprint(),
        "experts": {str(number): bench.experts[number].identity() for number in numbers},
        "recipes": {name: dict(find_recipe(name).options) for name in sorted(_named(cells, "recipe"))},
        "learned": {path: _labels_sha256(path) for path in sorted(_named(cells, "learned"))},
    }


def _named(cells: Sequence[Params], what: str) -> set[str]:
    """Recipes, or stores of learned labels, that cells train with, by name or path."""
    return {str(cell[what]) for cell in cells if what in cell}


def _labels_sha256(path: str) -> str:
    """SHA-256 (hex) of the labels of view 0 of a store, however it lies on disk."""
    return weights_sha256(LabelStore.open(path).plane(0).labels.plane._asdict())


def _begin(out: Path, identity: Mapping[str, Any]) -> None:
    path = out / "config.json"
    wanted = json.loads(json.dumps(identity))
    if path.exists():
        before = _read_identity(path)
        # A grid may grow by these: those that only one of both has do not tell them apart.
        for name in _GROWING:
            ours, theirs = wanted[name], before[name]
            wanted[name], before[name] = theirs | ours, ours | theirs
        difference = first_difference(before, wanted)
        if difference is not None:
            where, found, expected = difference
            raise InputError(
                f"{out} holds another study: its {where} is {found}, this one has {expected}; choose another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no study (no config.json): choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(wanted, indent=1) + "\n")


def _read_identity(path: Path) -> dict[str, Any]:
    """What `_begin` wrote. InputError for the config.json of something else."""
    try:
        before = {"recipes": {}, "learned": {}, **json.loads(path.read_text())}
        if isinstance(before["study"], str) and all(isinstance(before[name], dict) for name in _GROWING):
            return dict(before)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(
        f"{path.parent} is not empty and holds no study (config.json is of something else): choose another folder"
    )


def _key(cell: Mapping[str, Any], repeat: int) -> str:
    return json.dumps([dict(sorted(cell.items())), repeat])


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """Results by cell and repeat; a line that a crash cut short does not count."""
    path, found = out / "results.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[_key(entry["cell"], entry["repeat"])] = entry["result"]
    return found


def _append(out: Path, cell: Params, repeat: int, result: Mapping[str, Any]) -> None:
    with open(out / "results.jsonl", "a+b") as file:
        # After a line that was cut short, begin a new one.
        if file.tell() and _last_byte(file) != b"\n":
            file.write(b"\n")
        file.write((json.dumps({"cell": cell, "repeat": repeat, "result": result}) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return bytes(file.read(1))


def _prepare(study: Study, bench: Workbench, missing: Sequence[tuple[Params, int]], progress: bool) -> list[Ids]:
    """Images into memory, labels into the store; the samples that each student trains on."""
    experts = [expert for cell, _ in missing for expert in study.experts(bench, cell)]
    for number, epoch in experts:
        bench.experts[number].check(epoch)
    chosen = [study.samples(bench, cell, repeat) for cell, repeat in missing]
    ids = np.unique(np.concatenate(chosen))
    bench.load(ids)
    if experts:
        bench.label(experts, ids, progress)
    return chosen


def _network(bench: Workbench, seed: int) -> nn.Module:
    """A student before its training."""
    with seeded(seed, bench.device):
        return build_model(bench.arch, bench.num_classes, bench.reference.spec.size).to(bench.device)


def _student(
    study: Study, bench: Workbench, cell: Params, repeat: int, ids: Ids, advance: Callable[[int], object]
) -> dict[str, Any]:
    """Train one student on these samples and test it."""
    config, train = bench.config, bench.images(ids)
    training = study.training(bench, cell)
    recipe = training.recipe.on(bench.device)
    evaluator = Evaluator(
        whole_batches(bench.test), bench.device, amp=bool(recipe.amp), classes=bench.num_classes
    )  # the test images come into memory before the clock starts
    started = time.monotonic()
    labels = study.target(bench, cell, ids, repeat)
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)
    label_seconds = time.monotonic() - started
    seed = config.student_seed(repeat)
    network = _network(bench, seed)
    augment = SiameseAugmentation.from_name(config.augment)
    last = drops_last(len(train), recipe.batch_size, network, Ranks())
    metrics = Trainer(
        model=network,
        loader=ResidentLoader(train, labels, recipe.batch_size, augment, seed, last),
        loss=_loss(labels, training),
        evaluate=_timed(evaluator),
        recipe=recipe,
        run=None,
        device=bench.device,
        eval_every=recipe.epochs,
        reporter=_Steps(advance),
    ).fit()[-1]
    by_class = metrics["val_by_class"]
    return {
        "accuracy": metrics["val_accuracy"],
        "loss": metrics["val_loss"],
        # JSON has no NaN, which a class without a test image has.
        "by_class": [None if math.isnan(share) else round(share, 6) for share in by_class],
        "images": len(ids),
        **_describe(labels, train.targets),
        **study.extra(bench, cell, by_class),
        "seconds": round(time.monotonic() - started, 6),
        "label_seconds": round(label_seconds, 5),
        "test_seconds": round(metrics["val_seconds"], 6),
    }


def _loss(labels: SoftLabels | None, training: Training) -> PerSampleLoss | ScheduledLoss:
    if labels is None:
        return hard_loss(training.recipe.label_smoothing)
    return cached_loss() if training.use is None else cached_use(training.use)


def _timed(evaluate: Evaluate) -> Evaluate:
    """The same, with the seconds that it took."""

    def timed(model: nn.Module, between: Callable[[], None]) -> dict[str, Any]:
        began = time.monotonic()
        metrics = evaluate(model, between)
        return {**metrics, "val_seconds": time.monotonic() - began}

    return timed


@dataclass(frozen=True)
class _Steps:
    """Reports the images of each step and nothing else."""

    advance: Callable[[int], object]

    def start(self, step: int, epochs: int, steps_per_epoch: int) -> None: ...

    def step(self, images: int) -> None:
        self.advance(images)

    def epoch(self, metrics: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


def _describe(labels: SoftLabels | None, targets: torch.Tensor) -> dict[str, float]:
    """Mean entropy of the labels in nats, and how often their top class is the true one."""
    if labels is None:
        return {"label_entropy": 0.0, "label_top1": 1.0}
    sparse = labels.sparse() if isinstance(labels, TopKLabels) else labels
    entropy = label_ops.entropy(sparse)
    return {
        "label_entropy": float(entropy[~entropy.isnan()].mean()) if not bool(entropy.isnan().all()) else 0.0,
        "label_top1": float((label_ops.top1(sparse) == targets).double().mean()),
    }


def _facts(study: Study, bench: Workbench, command: str, outcome: Outcome, wall: float) -> dict[str, str]:
    config, recipe = bench.config, bench.config.recipe.on(bench.device)
    expert = bench.experts[0]
    share = outcome.label_seconds / outcome.seconds if outcome.seconds else 0.0
    testing = sum(row.result["test_seconds"] for row in outcome.rows)
    facts = {
        "Command": f"`{command}`" if command else "from Python",
        "Students": f"{bench.arch}, {recipe.epochs} epochs, {recipe.optimizer} at {recipe.lr:g}, {recipe.schedule} "
        f"schedule{', bfloat16' if recipe.amp else ''}, augmentation {config.augment}; {config.repeats} in each cell"
        + (", on the same images" if config.same_images else ", each on images of its own")
        + ("; but for what the recipe or the rate of a cell says" if outcome.rows.values("recipe") else ""),
        "Experts": f"{len(bench.experts)} x {bench.reference.spec.arch}, epochs up to {expert.last} "
        f"({percent_or_unknown(expert.accuracy(expert.last))} test accuracy), {_recipe_in_words(expert.identity())}",
        "Data": f"{bench.data.num_samples:,} images to choose from, {bench.val.num_samples:,} to test on, "
        f"{bench.num_classes} classes, {bench.reference.spec.size} pixels",
        "Time": f"{outcome.seconds:,.0f} s for {len(outcome.rows)} students: {outcome.label_seconds:.2f} s "
        f"({share:.2%}) to look labels up and edit them, {testing:,.0f} s to test, the rest to train",
        "Hardware": hardware(bench.device),
        "Versions": versions(),
    }
    if outcome.done:
        facts["Time"] += f"; labelling before them {outcome.labelling_seconds:.1f} s; this run {wall:,.0f} s"
    return facts


def _recipe_in_words(identity: Mapping[str, Any]) -> str:
    recipe = identity.get("recipe", {})
    words = [f"{name.replace('_', ' ')} {recipe[name]}" for name in ("lr", "momentum", "batch_size") if name in recipe]
    return ", ".join(words + ["bfloat16"] * bool(recipe.get("amp")))


def percent_or_unknown(share: float) -> str:
    """A share of 1 in percent; "unknown" for NaN."""
    return "unknown" if share != share else f"{100 * share:.1f} %"
