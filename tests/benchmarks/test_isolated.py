"""A case in a process of its own: what it returns, its memory, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlabel.benchmarks.isolated import Isolated

MEGABYTES = 60


def count_from(start: int) -> Callable[[], tuple[int, int]]:
    calls = iter(range(start, start + 100))
    return lambda: (next(calls), os.getpid())


def take_memory(file: Path) -> Callable[[], int]:
    def run() -> int:
        mapped = np.memmap(file, np.uint8, mode="r")
        return int(np.ones(MEGABYTES << 20, np.uint8)[-1]) + int(mapped[::4096].max())

    return run


def fail(when: str) -> Callable[[], None]:
    if when == "made":
        raise ValueError("not to be made")

    def run() -> None:
        if when == "run":
            raise ValueError("not to be run")
        os._exit(3)

    return run


def test_it_runs_elsewhere_each_time_it_is_called() -> None:
    with Isolated(count_from, 5) as case:
        first, process = case()
        assert (first, case()[0]) == (5, 6) and process != os.getpid()
        assert case.result == (6, process)


def test_memory_is_that_of_its_peak_without_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(MEGABYTES << 20))
    with Isolated(take_memory, file) as case:
        assert case() == 1
        grown = case.memory_bytes()
    assert grown is None or MEGABYTES - 1 < grown / 2**20 < MEGABYTES + 30


_CHILD = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print(flush=True)
"""


def burn_in_a_child(seconds: float) -> Callable[[], None]:
    """A case whose work is done by a child that lives on until its input ends, as a DataLoader's workers do."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    asked, answered = child.stdin, child.stdout

    def run() -> None:
        print(seconds, file=asked, flush=True)
        answered.readline()

    return run


def test_processor_time_is_that_of_the_whole_tree() -> None:
    with Isolated(burn_in_a_child, 0.3) as case:
        case()
        with pytest.raises(RuntimeError, match="run the case twice"):
            case.cpu_seconds()
        case()
        spent = case.cpu_seconds()
    assert spent is None or spent >= 0.25


@pytest.mark.parametrize(("when", "message"), [("made", "ValueError: not to be made"), ("run", "not to be run")])
def test_an_error_comes_with_its_traceback(when: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message), Isolated(fail, when) as case:
        case()


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 3"), Isolated(fail, "never") as case:
        case()
