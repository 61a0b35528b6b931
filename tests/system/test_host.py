"""What a report says of the machine, also where fastlabel lies on the path and is not installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from fastlabel.benchmarks import harness
from fastlabel.system import host


def without_fastlabel(name: str) -> str:
    if name == "fastlabel":
        raise PackageNotFoundError(name)
    return version(name)


@pytest.mark.fault("17.B2 figures were lost where fastlabel is not installed")
def test_figures_are_kept_where_fastlabel_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "version", without_fastlabel)
    out = tmp_path / "out.json"
    harness.write_json(out, "how fast", {"figure": 1})
    figures = json.loads(out.read_text())
    assert figures["figure"] == 1 and figures["machine"]["versions"]["fastlabel"] == "not installed"
    assert figures["machine"]["versions"]["numpy"] == version("numpy")
    assert f"fastlabel not installed, torch {version('torch')}" in host.versions()
    assert host.package_versions("no-such-package") == {"no-such-package": "not installed"}


def test_the_device_in_words() -> None:
    assert host.hardware(torch.device("cpu")).endswith(", no GPU")
