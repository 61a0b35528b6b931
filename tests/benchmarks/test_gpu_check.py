"""`make gpu-check` at a tiny size on the CPU: each part runs, is kept cell by cell, and is gone on with."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fastlabel.benchmarks.gpu_check.__main__ import PARTS, main
from fastlabel.benchmarks.gpu_check.check import NOT_FINISHED, Check, check_of, failed_cells, measure, read
from fastlabel.benchmarks.gpu_check.native_tests import marked_files, summary


@pytest.fixture
def check(tmp_path: Path) -> Check:
    (tmp_path / "kit" / "photos").mkdir(parents=True)
    return check_of(tmp_path / "kit", tmp_path, quick=True, budget=600)


def test_a_part_is_kept_cell_by_cell_and_gone_on_with(check: Check, tmp_path: Path) -> None:
    out, called, broken = tmp_path / "part.json", [], True

    def fine() -> dict[str, Any]:
        called.append("fine")
        return {"figure": 1}

    def sometimes() -> dict[str, Any]:
        if broken:
            raise ValueError("no memory")
        return {"figure": 2}

    def last() -> dict[str, Any]:
        kept = read(out)
        assert kept is not None and kept["cells"]["last"] == {"error": NOT_FINISHED}
        return {"kept": [name for name in kept["cells"] if name != "last"]}

    cells = [("fine", fine), ("sometimes", sometimes), ("last", last)]
    measure("how fast", cells, check, out)
    result = read(out)
    assert result is not None and not result["complete"] and result["machine"]["versions"]["torch"]
    assert failed_cells(result) == {"sometimes": "ValueError: no memory"}
    assert result["cells"]["fine"]["figure"] == 1 and result["cells"]["last"]["kept"] == ["fine", "sometimes"]
    broken = False
    measure("how fast", cells, check, out)
    result = read(out)
    assert result is not None and result["complete"] and called == ["fine"]
    assert result["cells"]["sometimes"]["figure"] == 2
    # Figures of another size or of other code are not gone on with.
    measure("how fast", cells, replace(check, quick=False), out)
    assert called == ["fine", "fine"]


def test_after_the_deadline_no_cell_is_begun(check: Check, tmp_path: Path) -> None:
    out = tmp_path / "part.json"
    measure("how fast", [("cell", dict)], replace(check, deadline=time.monotonic() - 1), out)
    result = read(out)
    assert result is not None and result["left_out"] == ["cell"] and not result["complete"] and not result["cells"]


def test_the_kit_brings_the_images(check: Check, tmp_path: Path) -> None:
    assert check.photos == tmp_path / "kit" / "photos" and check.cifar10 is None
    assert check_of(tmp_path / "missing", tmp_path, True, 1).photos is None


def test_tests_that_want_a_gpu_are_found() -> None:
    names = {Path(path).name for path in marked_files()}
    assert {"test_gpu.py", "test_topk_triton.py", "test_soft_cross_entropy.py", "test_device_loader.py"} <= names


def test_what_pytest_reports(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one" time="2.5"/>'
        '<testcase classname="a" name="two" time="1"><failure message="assert 1 == 2">lines</failure></testcase>'
        '<testcase classname="b" name="three" time="0"><skipped message="no GPU"/></testcase></testsuite></testsuites>'
    )
    found = summary(report, 1)
    assert found["error"] == "pytest ended with 1" and found["passed"] == 1 and found["skipped"] == ["b::three"]
    assert found["failed"] == {"a::two": "assert 1 == 2\nlines"} and next(iter(found["slowest"])) == "a::one"
    assert "error" not in summary(report, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
@pytest.mark.parametrize("part", PARTS)
def test_a_part(tmp_path: Path, part: str) -> None:
    options = ["--quick", "--in-this-process", "--out", str(tmp_path), "--kit", str(tmp_path / "none")]
    done = CliRunner().invoke(main, [part, *options])
    result = json.loads((tmp_path / f"gpu-check-{part}.json").read_text())
    assert not failed_cells(result) and result["complete"], failed_cells(result)
    assert done.exit_code == 0 and f"{part}: {len(result['cells'])} cells measured" in done.output
