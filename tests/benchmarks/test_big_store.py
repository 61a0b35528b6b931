"""The benchmark of large stores, once at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from click.testing import CliRunner

from fastlabel.benchmarks import big_store


def test_big_store(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--samples", "300", "--views", "3", "--k", "4", "--classes", "40", "--rounds", "2", "--verify-rounds", "1"]
    arguments = [*sizes, "--folder", str(tmp_path), "--json", str(out)]
    result = CliRunner().invoke(big_store.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "300 samples x 3 views, synthetic labels" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # the store is gone
    figures = json.loads(out.read_text())
    assert figures["synthetic"] and figures["bytes_per_crop"] > 4
    assert figures["write"]["bytes"] == round(900 * sum(figures["arrays"].values()))
    assert figures["plane"]["rounds"] == figures["plane_disk_cold"]["rounds"] == figures["open"]["rounds"] == 2
    assert figures["verify"]["rounds"] == figures["verify_disk"]["rounds"] == 1
    assert figures["peak_memory_bytes"]["plane"] > 0 and figures["machine"]["cores"]


def test_synthetic_logits_follow_from_their_place() -> None:
    logits = big_store.SyntheticLogits(100, 40)
    assert torch.equal(logits(1, 20, 30), logits(1, 20, 30))
    assert not torch.equal(logits(1, 20, 30), logits(2, 20, 30))
    crops = logits(0, 0, 100)
    targets = torch.arange(100) * 40 // 100
    # The teacher that is made up is mostly right, and unsure.
    assert 0.5 < (crops.argmax(1) == targets).float().mean() < 1
    assert 0.3 < torch.distributions.Categorical(logits=crops).entropy().mean() < 2.5
