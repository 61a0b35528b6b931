"""Part (d): the whole way from images to a student; the same bytes twice; memory errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fastlabel.benchmarks.gpu_check.check import Cell, Check
from fastlabel.benchmarks.gpu_check.native_tests import ROOT
from fastlabel.dataset.write import write_dataset
from fastlabel.integrity.verify import verify_store
from fastlabel.labelling.cache import cache_labels
from fastlabel.train import Recipe, Result, StudentConfig, TeacherConfig, train_student, train_teacher

QUESTION = "CIFAR-10 from teacher to student; stores byte for byte; a CPU's store verified; compute-sanitizer"
ARCH, K = "convnet-d3", 5
TOOLS = ("memcheck", "racecheck")
# Each kernel once, at sizes that a sanitizer bears.
SANITIZED = ["tests/test_gpu.py", "tests/kernels/test_resized_crops.py", "-k", "codec_and_loss or on_the_samples"]
LONGEST = 150.0  # seconds of one run of a sanitizer


class Cifar:
    """Datasets, teacher and store that the cells share, each made when it is first needed."""

    def __init__(self, check: Check) -> None:
        self.check, self.folder = check, check.folder
        self.views = check.size(16, 2)
        self.arch = "convnet-d2-w8" if check.quick else ARCH

    @cached_property
    def datasets(self) -> tuple[Path, Path]:
        """Images to train on and others; without the kit, as a rehearsal, of the digits."""
        sources = ("digits:train", "digits:test")
        if self.check.cifar10 is not None and not self.check.quick:
            with tarfile.open(self.check.cifar10) as archive:
                archive.extractall(self.folder / "cifar10", filter="data")
            sources = (str(self.folder / "cifar10" / "train"), str(self.folder / "cifar10" / "test"))
        train, test = self.folder / "train.beton", self.folder / "test.beton"
        for source, out in ((sources[0], train), (sources[1], test)):
            write_dataset(source, out, force=True, progress=False)
        return train, test

    @cached_property
    def teacher(self) -> Result:
        """A trained teacher."""
        options: dict[str, Any] = {**self._data(), "out": self._new("teacher"), "keep_every": 0}
        return train_teacher(TeacherConfig(arch=self.arch, recipe=self._recipe(), **options))

    @cached_property
    def store(self) -> Path:
        """Labels of this device."""
        return self._label("store.zarr")

    def train_teacher(self) -> dict[str, Any]:
        """Its accuracy and speed."""
        return _outcome(self.teacher)

    def label(self) -> dict[str, Any]:
        """Crops labelled a second; small ones, so that all around the network counts."""
        train, _ = self.datasets
        report = cache_labels(train, self._new("timed.zarr"), [self.teacher.checkpoint], self.views, K)
        return {"crops": report.crops, "crops_per_second": report.crops_done / report.seconds}

    def student(self, labels: str) -> dict[str, Any]:
        """Accuracy and speed of a student by a kind of labels."""
        options: dict[str, Any] = {**self._data(), "out": self._new(f"student-{labels}"), "labels": labels}
        return _outcome(
            train_student(StudentConfig(store=self.store, arch=self.arch, recipe=self._recipe(), **options))
        )

    def twice(self) -> dict[str, Any]:
        """Whether another process writes the same files, byte for byte."""
        first, again = self.store, self._new("again.zarr")
        arguments = ("--teacher", self.teacher.checkpoint, "--views", self.views, "--k", K)
        _run(30 * LONGEST, "fastlabel.cli.main", "cache-labels", self.datasets[0], again, *arguments)
        differ = [name for name in sorted(_files(first) | _files(again)) if not _same(first / name, again / name)]
        if differ:
            raise AssertionError(f"{len(differ)} files of two stores of the same run differ, for example {differ[0]}")
        return {"files": len(_files(first))}

    def of_cpu(self) -> dict[str, Any]:
        """A store that the CPU labelled, verified with the teacher on this device."""
        store = self._label("cpu.zarr", device="cpu", ipc=self.check.size(20, 2))
        report = verify_store(store, self.datasets[0], [self.teacher.checkpoint], samples=64)
        if not report.sound:
            raise AssertionError("; ".join(map(str, report.findings)))
        return {"findings": [str(finding) for finding in report.findings]}

    def sanitize(self, tool: str) -> dict[str, Any]:
        """One run of compute-sanitizer over a test of each kernel."""
        sanitizer = shutil.which("compute-sanitizer")
        if self.check.device.type != "cuda" or sanitizer is None:
            return {"skipped": "there is no GPU here, or no compute-sanitizer"}
        # Without PyTorch's own blocks of memory, the bounds are those of the tensors.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        options = ("-q", "-x", "-m", "gpu or triton", "--timeout", "0", "-p", "no:cacheprovider", *SANITIZED)
        seconds = min(LONGEST, self.check.deadline - time.monotonic())
        said = _run(seconds, "pytest", *options, under=[sanitizer, "--tool", tool, "--error-exitcode", "9"])
        return {"last_lines": [line for line in said.splitlines() if line.startswith("=====") or "passed" in line][-5:]}

    def _new(self, name: str) -> Path:
        """A folder that is not there: what a cell that failed has left is gone."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def _data(self) -> dict[str, Any]:
        train, test = self.datasets
        return {"data": train, "val": test, "eval_every": self.check.size(20, 1)}

    def _recipe(self) -> Recipe:
        return Recipe(epochs=self.check.size(20, 1))

    def _label(self, name: str, **options: Any) -> Path:
        out = self._new(name)
        cache_labels(self.datasets[0], out, [self.teacher.checkpoint], self.views, K, **options)
        return out


def cells(check: Check) -> Iterator[Cell]:
    """The way of an image first."""
    cifar = Cifar(check)
    yield "teacher", cifar.train_teacher
    yield "labels", cifar.label
    for labels in ("cache", "hard"):
        yield f"student, {labels}", partial(cifar.student, labels)
    yield "the same store twice", cifar.twice
    yield "a store of the CPU", cifar.of_cpu
    for tool in TOOLS:
        yield tool, partial(cifar.sanitize, tool)


def _outcome(result: Result) -> dict[str, Any]:
    last = result.history[-1]
    figures = {name: last[name] for name in ("epoch", "val_accuracy", "val_loss")}
    # The first epoch compiles and warms up.
    speeds = [epoch["images_per_second"] for epoch in result.history]
    return {**figures, "images_per_second": sorted(speeds)[len(speeds) // 2], "first_epoch": speeds[0]}


def _files(store: Path) -> set[Path]:
    return {path.relative_to(store) for path in store.rglob("*") if path.is_file()}


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _run(seconds: float, module: str, *arguments: object, under: list[str] | None = None) -> str:
    """What a Python module prints, run as a program. RuntimeError with the end of it if that fails."""
    line = [*(under or []), sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line[:6])} ... ended with {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout
