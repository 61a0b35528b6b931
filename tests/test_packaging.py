"""What is installed: every folder of the library, and nothing under the names `kernels`, `cli` or `benchmarks`."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("kernels", "cli", "benchmarks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_installed():
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    installed = set(find_packages(str(ROOT), include=include))
    folders = {
        path.parent.relative_to(ROOT / "fastlabel")
        for root in (ROOT / "fastlabel", *(ROOT / "fastlabel" / name for name in LINKS))
        for path in root.rglob("*.py")
    }
    assert installed == {".".join(("fastlabel", *folder.parts)) for folder in folders}


def test_the_links_are_relative():
    for name in LINKS:
        assert (ROOT / "fastlabel" / name).readlink() == Path("..") / name


def test_only_one_top_level_name_is_installed():
    top_level = distribution("fastlabel").read_text("top_level.txt")
    assert top_level is not None and top_level.split() == ["fastlabel"]
    assert version("fastlabel") == PROJECT["project"]["version"]


def test_constraints_pin_every_dependency():
    """A dependency without a pin would make two set-ups differ."""
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {line.split(">=")[0].lower() for line in wanted} <= pinned
