"""fastlabel inspect as one types it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fastlabel.inspection.inspect import inspect_store
from tests.stores import Maker, make_teacher

Cli = Callable[..., Result]


def test_text(cli: Cli, make_store: Maker, photos: Path) -> None:
    path = make_store(teachers=[make_teacher(), make_teacher(seed=1, name="other")])
    result = cli("inspect", path, photos, "--per-class")
    assert result.exit_code == 0, result.stderr
    for text in (
        "12 samples, 3 classes",
        "3 x random-resized-crop, 16 pixels, seed 0",
        "teacher 0    expert: convnet-d2-w8, epoch 3",
        "teacher 1    other",
        "fp32 on cpu, batches of 4",
        "images       of 16 pixels, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225",
        "the top 2 of 3 classes",
        "1 of 1 units, 36 of 36 crops (100.0%)",
        "36 looked at: all",
        "the top class is the hard label in",
        "confusions",
    ):
        assert text in result.stdout
    assert re.search(r"^classes +4 +\d+\.\d\d$", result.stdout, re.M)
    assert re.search(r"^bird +12 +\d\.\d{3} +\d+\.\d% +\d+\.\d\d%$", result.stdout, re.M)


def test_json_is_the_inspection(cli: Cli, make_store: Maker, photos: Path) -> None:
    path = make_store()
    result = cli("inspect", path, photos, "--json", "--views", "1:", "--samples", 20, "--seed", 5)
    expected = inspect_store(path, photos, views=[1, 2], samples=20, seed=5).to_dict()
    assert json.loads(result.stdout) == json.loads(json.dumps(expected | {"figure": None}))


def test_without_the_dataset(cli: Cli, make_store: Maker) -> None:
    result = cli("inspect", make_store(), "--per-class")
    assert result.exit_code == 0 and "agreement  " not in result.stdout.split("top class")[0]
    assert re.search(r"^top class +labels", result.stdout, re.M)


def test_nothing_committed(cli: Cli, make_store: Maker) -> None:
    path = make_store()
    shutil.rmtree(path / "0" / "units" / "0.0")
    result = cli("inspect", path)
    assert result.exit_code == 0 and "0 of 1 units, 0 of 36 crops (0.0%)" in result.stdout
    assert "of no committed unit" in result.stdout and "looked at" not in result.stdout


def test_figure(cli: Cli, make_store: Maker, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    options = ["--figure", out, "--figure-samples", 2, "--figure-views", 1]
    result = cli("inspect", make_store(), photos, *options)
    assert result.exit_code == 0 and str(out) in result.stdout
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--teacher", 4], 2, "no teacher 4; it has 1"),
        (["--views", "0:9"], 2, "no view 3; it has 3"),
        (["--views", "first"], 2, "'first' names no views"),
        (["--views", "2:1"], 2, "'2:1' names no views"),
        (["--samples", -1], 2, "--samples"),
        (["--figure", "sheet.png"], 2, "--figure needs DATA.beton"),
    ],
)
def test_bad_usage(cli: Cli, make_store: Maker, arguments: list[object], code: int, message: str) -> None:
    result = cli("inspect", make_store(), *arguments)
    assert result.exit_code == code and message in result.stderr and not result.stdout


def test_no_store_and_a_damaged_one(cli: Cli, make_store: Maker, tmp_path: Path) -> None:
    result = cli("inspect", tmp_path / "nowhere.zarr")
    assert result.exit_code == 1 and "no label store at" in result.stderr
    path = make_store()
    (path / "0" / "tail" / "c" / "0" / "0" / "0").unlink()
    result = cli("inspect", path)
    assert result.exit_code == 1 and "unit 0.0 of teacher 0 has lost its tail" in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
