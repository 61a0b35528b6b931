"""The whole path on real digits, in minutes: dataset, teacher, label cache, students with hard and with soft labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastlabel.dataset.write import write_dataset
from fastlabel.labelling.cache import cache_labels
from fastlabel.train import Recipe, StudentConfig, TeacherConfig, train_student, train_teacher

Say = Callable[[str], None]
LABELS = ("hard", "cache")


@dataclass(frozen=True)
class DemoConfig:
    """What the demo runs; the defaults take under three minutes on two cores.

    Attributes:
        ipcs: images per class that students see.
        seeds: students per cell; each seed chooses other images and other initial weights.
        views: cached crops of each image.
        label_temperature: that soft labels are softened by when used.
    """

    out: str
    ipcs: tuple[int, ...] = (1, 5, 10)
    seeds: int = 3
    views: int = 8
    arch: str = "convnet-d3-w32"
    teacher_epochs: int = 8
    student_epochs: int = 250
    label_temperature: float = 2.0
    num_workers: int = 0


@dataclass(frozen=True)
class DemoCell:
    """Test accuracies of one row of the table, a share of 1 for each seed."""

    labels: str
    ipc: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class DemoReport:
    """What the demo found, and where its files are."""

    out: str
    teacher_accuracy: float
    cells: tuple[DemoCell, ...]
    figure: str
    results: str

    def table(self) -> str:
        """Test accuracy in percent, mean +- standard deviation over seeds."""
        lines = ["images per class   hard labels      cached soft labels"]
        for ipc in sorted({cell.ipc for cell in self.cells}):
            hard, soft = (self._cell(labels, ipc) for labels in LABELS)
            lines.append(f"{ipc:16d}   {_percent(hard):15s}  {_percent(soft)}")
        return "\n".join(lines)

    def _cell(self, labels: str, ipc: int) -> DemoCell:
        return next(cell for cell in self.cells if (cell.labels, cell.ipc) == (labels, ipc))


def run_demo(config: DemoConfig, say: Say = lambda _: None) -> DemoReport:
    """Run what is not there yet in ``config.out``, and draw the figure.

    Everything goes through the same functions as the commands do. A finished step is not run again.
    """
    out = Path(config.out)
    train, val = (_dataset(out, split, say) for split in ("train", "test"))
    say(f"training the teacher ({config.arch}, {config.teacher_epochs} epochs)")
    teacher = train_teacher(
        TeacherConfig(
            data=train,
            val=val,
            out=out / "teacher",
            arch=config.arch,
            recipe=Recipe(epochs=config.teacher_epochs, batch_size=64, schedule="onecycle"),
            view_policy="pad-crop",
            flip=False,  # a mirrored digit is another sign
            num_workers=config.num_workers,
            resume=(out / "teacher").exists(),
        )
    )
    say(f"teacher: {teacher.accuracy:.1%} of the test digits; labelling {config.views} views of every training digit")
    store = out / "labels.zarr"
    report = cache_labels(
        train,
        store,
        [teacher.checkpoint],
        views=config.views,
        k=10,
        policy="pad-crop",
        flip=False,
        num_workers=config.num_workers,
    )
    say(f"{report.crops:,} crops in the cache, {report.bytes_on_disk:,} bytes")
    cells = tuple(_cell(config, labels, ipc, say) for ipc in config.ipcs for labels in LABELS)
    return _write_results(config, teacher.accuracy, cells)


def _dataset(out: Path, split: str, say: Say) -> Path:
    path = out / f"digits-{split}.beton"
    if not path.exists():
        say(f"writing {path}")
        out.mkdir(parents=True, exist_ok=True)
        write_dataset(f"digits:{split}", path, progress=False)
    return path


def _cell(config: DemoConfig, labels: str, ipc: int, say: Say) -> DemoCell:
    accuracies = tuple(_student(config, labels, ipc, seed) for seed in range(config.seeds))
    cell = DemoCell(labels, ipc, accuracies)
    name = "hard labels" if labels == "hard" else "soft labels"
    say(f"{ipc} images per class, {name}: {_percent(cell)} over {config.seeds} seeds")
    return cell


def _student(config: DemoConfig, labels: str, ipc: int, seed: int) -> float:
    out = Path(config.out)
    run = out / "students" / f"{labels}-ipc{ipc}-seed{seed}"
    result = train_student(
        StudentConfig(
            data=out / "digits-train.beton",
            store=out / "labels.zarr",
            val=out / "digits-test.beton",
            out=run,
            arch=config.arch,
            recipe=Recipe(epochs=config.student_epochs, batch_size=64, lr=0.05),
            labels=labels,
            label_temperature=config.label_temperature if labels == "cache" else 1.0,
            ipc=ipc,
            seed=seed,
            eval_every=config.student_epochs,
            num_workers=config.num_workers,
            resume=run.exists(),
        )
    )
    return result.accuracy


def _write_results(config: DemoConfig, teacher_accuracy: float, cells: tuple[DemoCell, ...]) -> DemoReport:
    from fastlabel.demo.figure import draw_demo

    out = Path(config.out)
    report = DemoReport(config.out, teacher_accuracy, cells, str(out / "demo.png"), str(out / "results.json"))
    result: dict[str, Any] = {"config": asdict(config), "teacher_accuracy": teacher_accuracy}
    result["cells"] = [asdict(cell) | {"mean": cell.mean, "std": cell.std} for cell in cells]
    Path(report.results).write_text(json.dumps(result, indent=1) + "\n")
    draw_demo(Path(report.figure), cells, teacher_accuracy, out / "digits-train.beton", out / "labels.zarr")
    return report


def _percent(cell: DemoCell) -> str:
    return f"{100 * cell.mean:.1f} +- {100 * cell.std:.1f} %"
