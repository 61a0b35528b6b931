"""Every benchmark runs once at a tiny size, so that it cannot rot. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks import labels_share
from benchmarks.harness import alternate


def test_labels_share(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--count", "16", "--size", "32", "--k", "4", "--views", "2", "--batch-size", "8", "--rounds", "2"]
    result = CliRunner().invoke(labels_share.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "32 crops of made images" in result.output
    figures = json.loads(out.read_text())
    assert figures["labels"]["rounds"] == 2 and figures["share"] > 0
    assert figures["machine"]["versions"]["zarr"] and figures["machine"]["cores"]


def test_cases_alternate() -> None:
    order: list[str] = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert "".join(order) == "abababab"
    assert timings["a"].rounds == 3 and timings["a"].p20 <= timings["a"].median <= timings["a"].p80
