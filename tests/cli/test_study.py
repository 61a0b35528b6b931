"""fastlabel study: experts, then a study; errors in one line."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from fastlabel.cli import study as module
from fastlabel.studies.registry import STUDIES, find_study
from tests.studies.tiny import write_colours

EXPERTS = ["--arch", "convnet-d1-w8", "--epochs", 2, "--lr", 0.05, "--batch-size", 32, "--device", "cpu"]
TINY = ["--epochs", 2, "--repeats", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data, and experts that `study experts` trained."""
    from click.testing import CliRunner

    from fastlabel.cli.main import main

    folder = tmp_path_factory.mktemp("study")
    made = SimpleNamespace(train=write_colours(folder, "train", 12, 1), test=write_colours(folder, "test", 4, 2))
    made.experts, made.data = folder / "experts", [made.train, "--val", made.test]
    arguments = ["study", "experts", *made.data, "--out", made.experts, *EXPERTS, "--count", 2]
    made.printed = CliRunner().invoke(main, [str(word) for word in arguments], catch_exceptions=False)
    return made


@pytest.fixture
def study(cli, files, tmp_path):
    """study("temperature", "--ipc", 1, ...) runs the command into tmp_path/out."""

    def run(name, *options, experts=None):
        into = ["--experts", experts or files.experts, "--out", tmp_path / "out"]
        return cli("study", name, *files.data, *into, *TINY, *options)

    return run


def error_of(result):
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.lower().startswith("error:")]
    return line


def test_the_help_lists_every_study(cli):
    text = cli("study", "--help").stdout
    assert all(name in text for name in STUDIES) and "experts" in text
    assert set(module.COMMANDS) == {*STUDIES, "experts"}


@pytest.mark.parametrize("name", module.COMMANDS)
def test_every_study_has_help(cli, name):
    result = cli("study", name, "--help")
    assert result.exit_code == 0
    axes = [] if name == "experts" else find_study(name).axes
    assert all(f"--{axis.name}" in result.stdout for axis in axes)
    for option in ("--val", "--out", "--augment", "--amp", "--seed", "--json"):
        assert option in result.stdout


def test_experts_are_trained_and_summed_up(files):
    assert files.printed.exit_code == 0
    lines = files.printed.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["expert 0", "expert 1"]
    assert all(line.endswith("% of the test images after 2 epochs") for line in lines)
    assert len(list(files.experts.glob("expert-*/epoch-002.pt"))) == 2


def test_the_command_trains_as_the_library_does():
    from fastlabel.studies.experts import PAPER_RECIPE

    defaults = {option.name: option.default for option in module.experts_command.params}
    for name in ("lr", "momentum", "weight_decay", "batch_size"):
        assert defaults[name] == getattr(PAPER_RECIPE, name)


def test_experts_as_json_and_again(cli, files, tmp_path):
    out = shutil.copytree(files.experts, tmp_path / "experts")
    result = cli("study", "experts", *files.data, "--out", out, *EXPERTS, "--count", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["out"] == str(out)
    assert [expert["epoch"] for expert in report["experts"]] == [2, 2]
    other = cli("study", "experts", *files.data, "--out", out, *EXPERTS, "--seed", 1)
    assert "holds another run: its seed is" in error_of(other)


@pytest.mark.usefixtures("lines_at_once")
def test_a_study_prints_its_report(study, tmp_path):
    result = study("temperature", "--ipc", 2, "--epoch", 2, "--temperature", 1, "--temperature", 3.5)
    assert result.exit_code == 0, result.stderr
    assert "2 images per class: test accuracy in percent" in result.stdout and "T = 3.5" in result.stdout
    assert "2 students trained, 0 were there; report:" in result.stdout
    assert "images (100 %)" in result.stderr and "student" in result.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(finding.removeprefix("* ") in report for finding in result.stdout.splitlines() if finding[:1] == "*")
    again = study("temperature", "--ipc", 2, "--epoch", 2, "--temperature", 1, "--temperature", 3.5)
    assert "0 students trained, 2 were there" in again.stdout


def test_a_study_as_json(study, tmp_path):
    result = study("baseline", "--ipc", 1, "--ipc", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["done"], report["skipped"], len(report["cells"]), len(report["findings"])) == (4, 0, 4, 2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    for cell, line in zip(report["cells"], lines, strict=True):
        assert cell == {**line["cell"], "mean": line["result"]["accuracy"], "std": 0.0, "n": 1}


def test_one_rate_is_of_all_students_and_several_are_an_axis(study, tmp_path):
    assert study("baseline", "--ipc", 1, "--lr", 0.02).exit_code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["recipe"]["lr"] == 0.02
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert all(set(line["cell"]) == {"ipc", "labels", "epoch"} for line in lines)
    shutil.rmtree(tmp_path / "out")
    result = study("baseline", "--ipc", 1, "--lr", 0.02, "--lr", 0.1, "--recipe", "paper", "--json")
    cells = json.loads(result.stdout)["cells"]
    assert [(cell["recipe"], cell["lr"], cell["labels"]) for cell in cells] == [
        ("paper", lr, labels) for lr in (0.02, 0.1) for labels in ("hard", "soft")
    ]


def test_a_class_is_an_option_although_it_is_a_word_of_python(study):
    result = study("zero-shot", "--ipc", 1, "--class", 3, "--json")
    cells = json.loads(result.stdout)["cells"]
    assert [(cell["treatment"], cell["class"]) for cell in cells] == [
        ("control", -1),
        ("no images", 3),
        ("no label", 3),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baseline", "--ipc", 1, "--epoch", 9], "no checkpoint of epoch 9; it has those of epochs 0-2"),
        (["baseline", "--ipc", 13], "12 images to choose from, 13 per class were asked for"),
        (["data-knowledge", "--rest", "half"], "unknown rest half: known are zero, renormalise, tail"),
        (["data-knowledge", "--epoch", 1, "--epoch", 2], "this study takes one --epoch, not 1, 2"),
        (["ensemble", "--rule", "median"], "unknown rule median: known are"),
        (["selection", "--strategy", "easy"], "unknown strategy easy: known are"),
        (["zero-shot", "--class", 5], "classes are 0 to 4, not [5]"),
        (["temperature", "--temperature", -1], "temperature"),
        (["structure", "--augment", "colour"], "unknown augmentation colour"),
        (["structure", "--arch", "convnt-d3", "--ipc", 1], "unknown model"),
        (["structure", "--lr", 0], "lr must be a positive number"),
    ],
)
def test_what_cannot_be_is_one_line(study, arguments, message):
    assert message in error_of(study(*arguments))


def test_a_folder_without_experts(study, tmp_path):
    line = error_of(study("baseline", experts=tmp_path))
    assert "holds no experts; train some with `fastlabel study experts" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["baseline"],
        ["baseline", "--ipc", "many"],
        ["experts", "--epochs", 0],
        ["structure", "--temperature", 2],
    ],
)
def test_bad_usage(cli, files, arguments):
    result = cli("study", *arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr


def test_the_command_is_given_without_folders(monkeypatch):
    words = [
        "study",
        "baseline",
        "/home/me/a.beton",
        "--val",
        "x/b.beton",
        "--out=/tmp/c d",
        "--lr",
        "0.1",
        "--arch=resnet18",
    ]
    monkeypatch.setattr("sys.argv", ["/usr/bin/fastlabel", *words])
    assert module._given() == "fastlabel study baseline a.beton --val b.beton '--out=c d' --lr 0.1 --arch=resnet18"
