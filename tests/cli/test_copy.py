"""fastlabel copy"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fastlabel.store.store import LabelStore
from tests.synthetic import check, run, teacher

Cli = Callable[..., Result]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    run(path, [1, 2, 5, 6, 9], 4, (teacher(0), teacher(1, k=2)), most=6)
    return path


@pytest.mark.usefixtures("lines_at_once")
def test_views_and_teachers(cli: Cli, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    done = cli("copy", source, out, "--views", "0:2", "--teacher", 1, "--teacher", 0)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 4 units of 5 samples x 2 views by teacher-1, teacher-0, ")
    assert "copy: 4 of 4 units (100 %)" in done.stderr and "not labelled" not in done.stdout
    check(LabelStore.open(out))


def test_json(cli: Cli, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    report = json.loads(cli("copy", source, out, "--json").stdout)
    assert report.pop("bytes") > 0
    assert report == {
        "source": str(source),
        "store": str(out),
        "samples": 5,
        "views": 4,
        "teachers": ["teacher-0", "teacher-1"],
        "units": 8,
        "units_copied": 6,
    }


def test_what_is_not_labelled_yet_is_said(cli: Cli, source: Path, tmp_path: Path) -> None:
    assert cli("copy", source, tmp_path / "out.zarr").stdout.endswith("bytes; 2 were not labelled yet\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--views", "0:3"], 2, "views 0:3 end inside of a unit"),
        (["--views", "2:4"], 2, "views 2:4 do not begin at 0"),
        (["--views", ":2", "--teacher", "2"], 2, "has no teacher 2; it has 2"),
        (["--views", "four"], 2, "'four' must be two whole numbers, such as 0:50"),
        (["--views", "0:-2"], 2, "must be two whole numbers"),
    ],
)
def test_bad_usage(cli: Cli, source: Path, tmp_path: Path, options: list[str], code: int, message: str) -> None:
    done = cli("copy", source, tmp_path / "out.zarr", *options)
    assert done.exit_code == code and message in done.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_a_path_that_is_taken(cli: Cli, source: Path) -> None:
    done = cli("copy", source, source)
    assert done.exit_code in (1, 2) and done.stderr.count("\n") == 1
