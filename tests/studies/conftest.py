"""Data, experts and results that many tests of studies share: made once, changed by none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fastlabel.studies.context import Workbench
from fastlabel.studies.experts import train_experts
from fastlabel.studies.registry import find_study
from fastlabel.studies.runner import run_study
from tests.studies.tiny import experts_config, study_config, write_colours


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """120 images to choose from and 40 to test on."""
    folder = tmp_path_factory.mktemp("colours")
    return SimpleNamespace(train=write_colours(folder, "train", 24, 1), test=write_colours(folder, "test", 8, 2))


@pytest.fixture(scope="session")
def experts(data, tmp_path_factory):
    """The folder of two whitened experts of three epochs."""
    out = tmp_path_factory.mktemp("experts") / "experts"
    train_experts(experts_config(data, out, count=2))
    return out


@pytest.fixture(scope="session")
def study(data, experts, tmp_path_factory):
    """study("temperature", grid, repeats=2, ...) -> outcome and workbench of a study run at a tiny setting."""

    def run(name, grid=None, **options):
        config = study_config(data, experts, tmp_path_factory.mktemp(name) / "out", grid=grid or {}, **options)
        outcome = run_study(find_study(name), config)
        return SimpleNamespace(
            outcome=outcome, rows=outcome.rows, out=outcome.out, study=find_study(name), bench=Workbench(config)
        )

    return run
