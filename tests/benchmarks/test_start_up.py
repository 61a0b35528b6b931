"""The measure of start-up times: every command that it names runs, each warm run with the kernels of the cold one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlabel.benchmarks.start_up import COMMANDS, main


@pytest.mark.slow
def test_every_command_starts(tmp_path: Path) -> None:
    out = tmp_path / "start-up.json"
    result = CliRunner().invoke(main, ["--rounds", "1", "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    seconds = json.loads(out.read_text())["seconds"]
    assert list(seconds) == list(COMMANDS)
    assert all(found[key] > 0.05 for found in seconds.values() for key in ("cold", "cold_cpu"))
    assert seconds["train-student"]["warm_cpu"]["median"] < seconds["train-student"]["cold_cpu"]
