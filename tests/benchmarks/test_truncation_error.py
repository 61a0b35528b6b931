"""The comparison of estimated and exact truncation loss, once at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from fastlabel.benchmarks import truncation_error


def test_truncation_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--data", str(photos), "--parts", "2", "--epochs", "1", "--rows", "50", "--json", str(out)]
    truncation_error.BATCH, usual = 4, truncation_error.BATCH
    try:
        result = CliRunner().invoke(truncation_error.main, arguments, catch_exceptions=False)
    finally:
        truncation_error.BATCH = usual
    assert result.exit_code == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["classes"], row["k"]) for row in rows[9:]] == [(3, 1), (3, 2), (6, 1), (6, 2), (6, 4)]
    assert len(rows) == len(result.stdout.splitlines()) - 1
    for row in rows[:9]:
        assert abs(row["error"]) < 0.05 < row["unbounded"] / row["exact"] - 1
