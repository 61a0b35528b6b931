"""The benchmark of the codec runs once at a tiny size, so that it cannot rot. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlabel.benchmarks import codec


def run(tmp_path: Path, device: str) -> dict:
    out = tmp_path / "result.json"
    sizes = ["--batch-size", "5", "--classes", "41", "--k", "3", "--k", "41", "--rounds", "2", "--device", device]
    result = CliRunner().invoke(codec.main, [*sizes, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "B=5 C=41 K=41: encode" in result.output
    return json.loads(out.read_text())


def test_codec(tmp_path: Path) -> None:
    figures = run(tmp_path, "cpu")
    assert [case["k"] for case in figures["cases"]] == [3, 41] and figures["machine"]["cores"]
    for case in figures["cases"]:
        assert case["seconds"]["decode"]["rounds"] == 2 and case["encode_rows_per_second"] > 0


@pytest.mark.gpu
def test_codec_on_a_gpu(tmp_path: Path) -> None:
    assert run(tmp_path, "cuda")["cases"][0]["encode_share_of_resnet50_forward"] > 0
