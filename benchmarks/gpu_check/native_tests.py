"""Part (a): every test that wants a GPU, and those of the Triton kernels, which elsewhere are interpreted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fastlabel
from fastlabel.benchmarks.gpu_check.check import Cell, Check
from fastlabel.errors import InputError

QUESTION = "do all tests that want a GPU pass, and those of Triton kernels natively?"
ROOT = Path(fastlabel.__file__).resolve().parents[1]
MOST_PROCESSES, SECONDS_TO_END, SLOWEST = 12, 20, 15
ONE_QUICK_TEST = ["tests/kernels/test_topk_triton.py", "-k", "nothing"]


def cells(check: Check) -> Iterator[Cell]:
    """One run of pytest."""
    yield "tests", lambda: run_tests(check)


def run_tests(check: Check) -> dict[str, Any]:
    """What pytest says of them; cut off at the deadline, of those that have run by then."""
    report, log = check.folder / "tests.xml", check.folder / "tests.log"
    chosen = ONE_QUICK_TEST if check.quick else [*marked_files(), "-n", str(min(os.cpu_count() or 1, MOST_PROCESSES))]
    command = [sys.executable, "-m", "pytest", "-m", "gpu or triton", f"--junitxml={report}", *chosen]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(max(1.0, check.deadline - time.monotonic()) if check.deadline < float("inf") else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then still writes its report
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if not report.exists():
        raise RuntimeError(f"pytest ended with {process.returncode} and no report:\n{log.read_text()[-1500:]}")
    return summary(report, process.returncode)


def marked_files() -> list[str]:
    """The files of tests that have such a test: collecting the others takes longer than running these."""
    if not (ROOT / "tests").is_dir():
        raise InputError(f"{ROOT} has no tests: gpu-check needs a checkout of fastlabel, not an installed package")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path) for path in files if re.search(r"mark\.(gpu|triton)\b", path.read_text())]


def summary(report: Path, exit_code: int) -> dict[str, Any]:
    """Counts, failures with their messages, skipped tests and the slowest ones."""
    cases = [(_name(case), case) for case in ElementTree.parse(report).iter("testcase")]
    failed = {name: _message(case) for name, case in cases if _child(case, "failure", "error") is not None}
    skipped = [name for name, case in cases if _child(case, "skipped") is not None]
    slowest = sorted(((float(case.get("time", 0)), name) for name, case in cases), reverse=True)[:SLOWEST]
    figures: dict[str, Any] = {
        "exit_code": exit_code,
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": failed,
        "skipped": skipped,
        "slowest": {name: seconds for seconds, name in slowest},
    }
    return figures if exit_code == 0 else {"error": f"pytest ended with {exit_code}", **figures}


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def _child(case: ElementTree.Element, *tags: str) -> ElementTree.Element | None:
    return next((child for child in case if child.tag in tags), None)


def _message(case: ElementTree.Element) -> str:
    child = _child(case, "failure", "error")
    assert child is not None
    return f"{child.get('message', '')[:500]}\n{(child.text or '')[-1500:]}"
