"""Progress: a bar on a terminal, in a log a line every half minute."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest

from fastlabel.cli.training_options import ProgressBar
from fastlabel.system import progress
from fastlabel.system.progress import Progress, duration

Step = Callable[[float], None]
Log = pytest.CaptureFixture[str]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Step:
    """later(seconds) lets time pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def step(seconds: float) -> None:
        now[0] += seconds

    return step


@pytest.mark.fault("11.14 progress in a log")
def test_a_log_gets_a_line_every_half_minute(capsys: Log, later: Step) -> None:
    with Progress("cache-labels", 10_000, "crops", done=1000) as bar:
        for _ in range(720):
            later(0.125)
            bar.update(12)
    # The bar that stood here before wrote 10 times a second.
    assert capsys.readouterr().err.splitlines() == [
        "cache-labels: 3,880 of 10,000 crops (38 %), 96 a second, about 1 min 4 s left",
        "cache-labels: 6,760 of 10,000 crops (67 %), 96 a second, about 33.8 s left",
        "cache-labels: 9,640 of 10,000 crops (96 %), 96 a second, about 3.8 s left",
    ]


@pytest.mark.fault("11.14 progress in a log")
def test_a_training_run_of_391_steps_writes_a_few_lines(capsys: Log, later: Step) -> None:
    metrics = {"images_per_second": 41.3, "epoch": 1, "train_loss": 1.0, "val_loss": 2.0, "val_accuracy": 0.5}
    with ProgressBar() as bar:
        bar.start(0, 1, 391)
        for _ in range(391):
            later(0.25)
            bar.step(8)
        bar.epoch(metrics)
    assert capsys.readouterr().err.splitlines() == [
        "train: 120 of 391 steps (30 %), 4 a second, about 1 min 8 s left",
        "train: 240 of 391 steps (61 %), 4 a second, about 37.8 s left",
        "train: 360 of 391 steps (92 %), 4 a second, about 7.8 s left",
        "epoch 1/1  loss 1.0000  val loss 2.0000  val top-1 50.00%  41 images/s",
    ]


def test_a_short_run_a_silent_one_and_one_without_end(capsys: Log, later: Step) -> None:
    assert list(Progress("verify", 3, "units").over("abc")) == ["a", "b", "c"]
    with Progress("copy", 3, "units", shown=False) as bar:
        later(60)
        bar.update()
        bar.message("nobody reads this")
    assert capsys.readouterr().err == ""
    with Progress("nothing", 0, "units") as bar:
        bar.note("student 1 of 2")
        later(60)
        bar.update(0)
    assert capsys.readouterr().err == "nothing: 0 of 0 units (100 %), student 1 of 2\n"


def test_a_slow_rate_has_its_decimals(capsys: Log, later: Step) -> None:
    with Progress("train", 10, "steps") as bar:
        later(40)
        bar.update()
    assert capsys.readouterr().err == "train: 1 of 10 steps (10 %), 0.025 a second, about 6 min 0 s left\n"


def test_a_terminal_gets_a_bar() -> None:
    script = "from fastlabel.system.progress import Progress\nwith Progress('copy', 7, 'units') as bar:\n    "
    script += "bar.update(7); bar.message('a line')"
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", script], stderr=writer, check=True)
    os.close(writer)
    seen = b""
    try:
        while part := os.read(reader, 4096):
            seen += part
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(reader)
    assert b"copy:   0%" in seen and b"0/7" in seen and b"a line\r\n" in seen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (61, "1 min 1 s"), (3600 * 5 + 61, "5 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
