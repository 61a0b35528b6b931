"""`fastlabel bench` as one types it, every question once at a tiny size. No speed is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image

from fastlabel.benchmarks.harness import Timing
from fastlabel.benchmarks.question import Answer, bars, draw, rate
from fastlabel.benchmarks.registry import QUESTIONS

Cli = Callable[..., Result]


def check_loss(figures: dict[str, Any]) -> None:
    (cell,) = figures["cells"]
    assert cell["times_faster_than"].keys() == {"dense", "fkd"} and cell["seconds"]["fused"]["rounds"] == 2


def check_loader(figures: dict[str, Any]) -> None:
    loaders = figures["loaders"]
    assert loaders["FFCV RandomResizedCrop"]["times_ffcv"] == 1 and len(loaders) == 4
    # An epoch of the 16 images: one crop of each, or two.
    assert {name: loaded["crops"] for name, loaded in loaders.items() if loaded["crops"] != 16} == {
        "ImageLoader, 2 views": 32
    }
    assert all(loaded["seconds"]["rounds"] == 2 for loaded in loaders.values())
    assert all(loaded["cpu_ms"] is None or loaded["cpu_ms"] >= 0 for loaded in loaders.values())
    assert figures["kernel"]["ours"]["median"] > 0 and len(figures["kernel"]) == 4


def check_labels(figures: dict[str, Any]) -> None:
    names = {"ours", "fkd", "fkd, 4 crops a file", "tinyvit", "dense fp16"}
    assert figures["seconds"].keys() == figures["labels_per_second"].keys() == names
    assert figures["times_faster_than"]["ours"] == 1 and figures["labels"]["fkd, 4 crops a file"] == 1200
    assert figures["synthetic_labels"]


def check_cache(figures: dict[str, Any]) -> None:
    assert [result["crops"] for result in figures["teachers"]] == [128, 128] and not figures["photos"]
    for result in figures["teachers"]:
        rates = result["crops_per_second"]
        assert rates.keys() == {"cache_labels", "decode alone", "teacher alone", "fkd"}
        assert result["crops_per_second_one_after_the_other"] < min(rates["decode alone"], rates["teacher alone"])
        assert result["share_of_slower_limit"] < result["share_of_one_after_the_other"]


def check_student(figures: dict[str, Any]) -> None:
    assert figures["images"] == 16 and figures["share_of_hard"]["hard labels"] == 1
    assert set(figures["images_per_second"]) == set(figures["seconds"]) == set(figures["share_of_hard"])
    assert {"cached labels", "teacher online", "cached labels, 4 views"} < figures["seconds"].keys()


def check_storage(figures: dict[str, Any]) -> None:
    rows = {(row["labels"], row["format"], row["k"]): row for row in figures["rows"]}
    assert {labels for labels, _, _ in rows} == {"trained network", "synthetic"}
    assert rows["synthetic", "tinyvit", 10]["bytes_per_crop"] == 44
    assert rows["synthetic", "dense fp16", 1000]["kl"] < 1e-4 < rows["synthetic", "ours", 1000]["kl"] < 0.01
    kls = [rows["synthetic", "ours", k]["kl"] for k in (1, 5, 8, 10, 16, 32, 1000)]
    assert kls == sorted(kls, reverse=True)


CHECKS = {
    "labels": check_labels,
    "loss": check_loss,
    "loader": check_loader,
    "cache": check_cache,
    "student": check_student,
    "storage": check_storage,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question(cli: Cli, tmp_path: Path, name: str) -> None:
    out, figure = tmp_path / "out.json", tmp_path / "out.png"
    result = cli("bench", name, "--quick", "--json", out, "--figure", figure)
    assert result.exit_code == 0 and f"== {name} ==" in result.stdout
    assert result.stderr.startswith(f"measuring: {name}")
    figures = json.loads(out.read_text())
    assert figures["quick"] and figures["question"] in result.stdout and figures["machine"]["versions"]["torch"]
    CHECKS[name](figures)
    assert size(figure)[0] > 500


def test_help_names_every_question(cli: Cli) -> None:
    shown = cli("bench", "--help").stdout
    assert all(f"  {name} " in shown for name in (*QUESTIONS, "all"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labelz"], "'labelz' is not one of"),
        (["loss", "--photos", "missing"], "Directory 'missing' does not exist"),
        (["loss", "--rounds", "0"], "0 is not in the range"),
        (["loss", "--json", "missing/out.json"], "expected a name inside an existing folder"),
    ],
)
def test_bad_usage(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli("bench", *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_an_answer_for_people_and_for_programs(tmp_path: Path) -> None:
    timing = Timing(0.5, 0.25, 1.0, 3)
    rates = {"ours": rate(timing, 10), "a peer": (1.0, 1.0, 1.0)}
    assert rates["ours"] == (20, 10, 40)
    rows = [("ours", "20"), ("a peer", "1")]
    answer = Answer(
        "how fast", {"cases": {"ours": timing}}, ("way", "per s"), rows, ["a note"], bars(rates, "x/s", ["ours"])
    )
    assert list(answer.lines()) == ["how fast", "", "way     per s", "ours       20", "a peer      1", "", "a note"]
    assert json.loads(json.dumps(answer.to_dict())) == {
        "question": "how fast",
        "notes": ["a note"],
        "cases": {"ours": {"median": 0.5, "p20": 0.25, "p80": 1.0, "rounds": 3}},
    }
    draw(tmp_path / "one.png", {"a": answer})
    draw(tmp_path / "two.png", {"a": answer, "b": answer})
    assert size(tmp_path / "two.png")[1] > size(tmp_path / "one.png")[1]


def size(figure: Path) -> tuple[int, int]:
    with Image.open(figure) as image:
        return image.size
