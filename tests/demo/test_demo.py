"""The demo at a tiny setting: everything it runs is what the full one runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fastlabel.demo.run import DemoCell, DemoConfig, DemoReport, run_demo

TINY = DemoConfig(
    out="",
    ipcs=(1, 2),
    seeds=2,
    views=2,
    arch="convnet-d1-w8",
    teacher_epochs=2,
    student_epochs=3,
    label_temperature=2.0,
)


@pytest.mark.slow
def test_demo_runs_once_and_then_reads_what_is_there(tmp_path: Path) -> None:
    config = replace(TINY, out=str(tmp_path))
    said: list[str] = []
    report = run_demo(config, said.append)
    assert report.teacher_accuracy > 0.1
    assert {(cell.labels, cell.ipc) for cell in report.cells} == {(lab, n) for lab in ("hard", "cache") for n in (1, 2)}
    assert all(len(cell.accuracies) == 2 and 0 < cell.mean < 1 for cell in report.cells)
    with Image.open(report.figure) as figure:
        assert min(figure.size) > 400
        assert len(figure.convert("RGB").getcolors(1 << 20) or []) > 100
    results = json.loads(Path(report.results).read_text())
    assert [cell["ipc"] for cell in results["cells"]] == [1, 1, 2, 2]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert run_demo(config).cells == report.cells
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}


def test_table() -> None:
    cells = (DemoCell("hard", 1, (0.5, 0.6)), DemoCell("cache", 1, (0.75, 0.75)))
    report = DemoReport("out", 0.9, cells, "demo.png", "results.json")
    assert report.table().splitlines()[1].split("   ")[-2].strip() == "55.0 +- 7.1 %"
    assert report.table().endswith("75.0 +- 0.0 %")
