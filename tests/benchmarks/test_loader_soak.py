"""Memory and threads stay flat over the epochs of a loader, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastlabel.benchmarks.loader_soak import Footprint, summary
from tests.stores import write_photos

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.mark.slow
def test_flat_over_many_small_batches(photo_folder: Path, tmp_path: Path) -> None:
    """12 photos one at a time, 60 epochs: 700 batches. What is kept of each, if it is 7 kB, shows as 5 MiB or more."""
    beton, out = write_photos(photo_folder, tmp_path / "photos.beton"), tmp_path / "soak.json"
    sizes = ["--size", "16", "--k", "2", "--views", "3", "--batch-size", "1"]
    rhythm = ["--epochs", "60", "--warmup", "20", "--leave-every", "3", "--json", out]
    command = [sys.executable, "-m", "fastlabel.benchmarks.loader_soak", "--beton", beton, *sizes, *rhythm]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["threads_max"] - figures["threads_min"] <= 1
    assert figures["files_max"] == figures["files_min"]
    assert figures["anonymous_last"] - figures["anonymous_first"] < 2 * MIB
    assert len(figures["after_each_epoch"]) == 60 and figures["before"]["rss"] > 50 * MIB
    assert "after epoch 20:" in done.stdout


def test_the_slope_is_that_of_the_epochs_after_the_warm_up() -> None:
    growing = [Footprint(1000 * epoch, 10 * epoch, 4 + epoch, 9) for epoch in range(30)]
    figures = summary([Footprint(0, 99999, 1, 1), *growing], warmup=1)
    assert round(figures["rss_slope"]) == 1000 and round(figures["anonymous_slope"]) == 10
    assert (figures["threads_min"], figures["threads_max"], figures["anonymous_range"]) == (4, 33, 290)
