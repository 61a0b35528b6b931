"""The measure of start-up times: commands run, each warm run with the kernels of the cold one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlabel.benchmarks.start_up import COMMANDS, main

NAMES = ("--help", "copy STORE OUT")


@pytest.mark.slow
def test_commands_start_cold_and_warm(tmp_path: Path) -> None:
    out = tmp_path / "start-up.json"
    chosen = [word for name in NAMES for word in ("--command", name)]
    result = CliRunner().invoke(main, [*chosen, "--rounds", "1", "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    seconds = json.loads(out.read_text())["seconds"]
    assert tuple(seconds) == NAMES and set(NAMES) < set(COMMANDS)
    assert all(found[key] > 0 for found in seconds.values() for key in ("cold", "cold_cpu"))
    assert all(found["warm_cpu"]["median"] > 0 for found in seconds.values())
