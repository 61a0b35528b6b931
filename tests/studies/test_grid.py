"""A grid runs what is missing and nothing else, and touches no folder that is not its own."""

from __future__ import annotations

import json

import pytest

from fastlabel.errors import InputError
from fastlabel.store.store import LabelStore
from fastlabel.studies.config import derived_seed, student_recipe
from fastlabel.studies.experts import train_experts
from fastlabel.studies.registry import STUDIES, find_study
from fastlabel.studies.runner import read_results, run_study
from fastlabel.studies.study import crossed
from fastlabel.train.evaluate import Evaluator
from tests.stores import digests
from tests.studies.tiny import experts_config, study_config

pytestmark = pytest.mark.slow  # each trains networks

TIMES = ("seconds", "label_seconds", "test_seconds")
FILES = {"config.json", "results.jsonl", "results.csv", "report.md", "figure.png", "labels.zarr"}


@pytest.fixture
def run(data, experts, tmp_path):
    """run(ipc=(1,), epoch=(2,), out="out", study="expert-epoch", ...) -> outcome."""

    def made(out="out", study="expert-epoch", ipc=(1,), epoch=(2,), folder=experts, **options):
        grid = {"ipc": ipc, "epoch": epoch}
        return run_study(find_study(study), study_config(data, folder, tmp_path / out, grid=grid, **options))

    return made


def results(out):
    """By cell and repeat, without what a clock says."""
    return {
        key: {name: value for name, value in result.items() if name not in TIMES}
        for key, result in read_results(out).items()
    }


def test_a_second_run_skips_everything_and_reports_the_same(run):
    first = run()
    assert (first.done, first.skipped) == (2, 0)
    before = digests(first.out)
    second = run()
    assert (second.done, second.skipped) == (0, 2)
    after = digests(first.out)
    assert {path for path in before if before[path] != after[path]} <= {"report.md", "figure.png"}
    assert [row.result for row in second.rows] == [row.result for row in first.rows]
    assert second.report.tables == first.report.tables and second.report.findings == first.report.findings
    assert {path.name for path in first.out.iterdir()} == FILES


def test_a_grid_that_grows_runs_only_what_is_new(run):
    """By repeats, by images and by epochs of experts: the store grows in both of its directions."""
    assert run().done == 2
    lines = (out := run(repeats=2).out).joinpath("results.jsonl").read_text()
    steps = [({"repeats": 3}, 1), ({"ipc": (3,)}, 2), ({"epoch": (1,)}, 2), ({"ipc": (1, 3), "epoch": (1, 2)}, 2)]
    for change, new in steps:
        assert run(**change).done == new
    # Earlier results stay as they are, and each cell is what it would have been alone.
    assert out.joinpath("results.jsonl").read_text().startswith(lines)
    alone = results(run(out="alone", ipc=(1, 3), epoch=(1, 2)).out)
    grown = results(out)
    assert len(alone) == 8 and len(grown) == 9
    # Up to the last bits: a whitening is a matrix product, whose rounding hangs on how many images it takes at once.
    for key, result in alone.items():
        for name, value in result.items():
            assert grown[key][name] == pytest.approx(value, rel=1e-4), (key, name)
    assert len(LabelStore.open(out / "labels.zarr").manifest.teachers) == 2


def test_a_grid_that_was_stopped_goes_on(run, monkeypatch):
    """Ctrl-C while the third of four students trains."""
    evaluated, evaluate = [], Evaluator.__call__

    def interrupted(*args):
        evaluated.append(1)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(Evaluator, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(ipc=(1, 2))
    monkeypatch.undo()
    outcome = run(ipc=(1, 2))
    assert (outcome.done, outcome.skipped) == (2, 2)
    assert results(outcome.out) == results(run(out="whole", ipc=(1, 2)).out)


def test_a_line_that_a_crash_cut_short_is_repeated(run):
    outcome = run(ipc=(1, 2))
    path, whole = outcome.out / "results.jsonl", results(outcome.out)
    path.write_bytes(path.read_bytes()[:-40])
    again = run(ipc=(1, 2))
    assert (again.done, again.skipped) == (1, 3)
    # Up to the last bits of a loss: two trainings in one process may round otherwise.
    repeated = results(outcome.out)
    assert repeated.keys() == whole.keys()
    for key, result in whole.items():
        for name, value in result.items():
            assert repeated[key][name] == pytest.approx(value, rel=1e-6), (key, name)
    assert run(ipc=(1, 2)).done == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"recipe": student_recipe(3, batch_size=16)}, "recipe.epochs"),
        ({"arch": "convnet-d2-w8"}, "arch"),
        ({"augment": "none"}, "augment"),
        ({"seed": 1}, "seed"),
        ({"same_images": True}, "same_images"),
        ({"study": "baseline"}, "study"),
    ],
)
def test_another_configuration_is_refused(run, change, what):
    outcome = run()
    before = digests(outcome.out)
    with pytest.raises(InputError, match=f"holds another study: its {what} is .*choose another folder"):
        run(**change)
    assert digests(outcome.out) == before


def test_other_experts_are_refused(run, data, tmp_path):
    outcome = run()
    train_experts(experts_config(data, tmp_path / "others", seed=5))
    with pytest.raises(InputError, match=r"holds another study: its experts\.0\.seed is"):
        run(folder=tmp_path / "others")
    assert run().out == outcome.out


@pytest.mark.parametrize(
    "files", [{"thesis.txt": "a"}, {"config.json": '{"run": {}, "arguments": {}}'}, {"config.json": "no JSON"}]
)
def test_a_folder_of_something_else_is_refused_and_not_touched(run, tmp_path, files):
    (tmp_path / "out").mkdir()
    for name, text in files.items():
        (tmp_path / "out" / name).write_text(text)
    before = digests(tmp_path / "out")
    with pytest.raises(InputError, match="is not empty and holds no study"):
        run()
    assert digests(tmp_path / "out") == before


def test_values_given_twice_are_one(run):
    outcome = run(ipc=(1, 1), epoch=(2, 2))
    assert outcome.done == 2 and [rows.spread().n for _, rows in outcome.rows.cells()] == [2]


def test_values_of_python_are_those_of_the_command(run, data, experts, tmp_path):
    config = study_config(data, experts, tmp_path / "t", grid={"ipc": (1,), "epoch": (3,), "temperature": (2,)})
    assert run_study(find_study("temperature"), config).done == 2
    config = study_config(data, experts, tmp_path / "t", grid={"ipc": (1,), "epoch": (3,), "temperature": (2.0,)})
    assert run_study(find_study("temperature"), config).done == 0


def test_an_unknown_axis_is_refused(data, experts, tmp_path):
    with pytest.raises(InputError, match="expert-epoch has no axis temperature"):
        run_study(
            find_study("expert-epoch"), study_config(data, experts, tmp_path / "out", grid={"temperature": (2.0,)})
        )
    assert not (tmp_path / "out").exists()


def test_students_of_a_cell_differ_and_cells_are_paired(data, experts, tmp_path):
    config = study_config(data, experts, tmp_path)
    assert len({config.student_seed(repeat) for repeat in range(50)} | {config.image_seed(r) for r in range(50)}) == 100
    same = study_config(data, experts, tmp_path, same_images=True)
    assert {same.image_seed(repeat) for repeat in range(5)} == {0}
    assert [same.student_seed(r) for r in range(5)] == [config.student_seed(r) for r in range(5)]
    assert derived_seed(1, 2, 3) != derived_seed(1, 3, 2) != derived_seed(2, 1, 3)


def test_students_arch_and_repeats_are_checked(data, experts, tmp_path, run):
    with pytest.raises(InputError, match="repeats must be 1 or more, not 0"):
        study_config(data, experts, tmp_path, repeats=0)
    with pytest.raises(InputError, match="give --arch without zca:"):
        run(arch="zca:convnet-d1-w8")
    with pytest.raises(InputError, match="unknown model"):
        run(arch="convnt-d1")
    assert not (tmp_path / "out").exists()


def test_a_learning_rate_of_zero_is_not_the_usual_one():
    assert (student_recipe(4).lr, student_recipe(4, "adamw").lr, student_recipe(4, lr=0.5).lr) == (0.01, 0.01, 0.5)
    with pytest.raises(InputError, match="lr must be a positive number, not 0"):
        student_recipe(4, lr=0)


def test_crossed():
    assert crossed(a=[1, 2], b="x") == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_found_by_its_name(name):
    study = find_study(name)
    assert study.name == name and study.axes[0].name == "ipc"


def test_the_results_are_json_lines(run):
    outcome = run()
    lines = [json.loads(line) for line in (outcome.out / "results.jsonl").read_text().splitlines()]
    assert [(line["cell"], line["repeat"]) for line in lines] == [({"ipc": 1, "epoch": 2}, r) for r in range(2)]
    assert all(line["result"]["seconds"] >= line["result"]["test_seconds"] > 0 for line in lines)
    assert outcome.to_dict()["cells"][0]["n"] == 2
