from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.models.weights import read_checkpoint, weights_sha256
from fastlabel.studies.context import Workbench
from fastlabel.studies.expert_runs import ExpertRun, find_experts
from fastlabel.studies.experts import expert_folder
from fastlabel.studies.registry import find_study
from fastlabel.studies.runner import run_study
from tests.studies.tiny import study_config

CPU = torch.device("cpu")


def test_the_experts_of_a_folder(experts):
    runs = find_experts(experts)
    assert [run.folder.name for run in runs] == ["expert-0", "expert-1"]
    assert all(run.epochs == (0, 1, 2, 3) and run.last == 3 for run in runs)
    assert runs[0].identity()["seed"] != runs[1].identity()["seed"]


def test_one_run_is_one_expert(experts):
    assert [run.folder for run in find_experts(expert_folder(experts, 1))] == [expert_folder(experts, 1)]


def test_the_expert_of_an_epoch(experts):
    run = find_experts(experts)[1]
    for epoch in run.epochs:
        state = read_checkpoint(run.folder / f"epoch-{epoch:03d}.pt")["state"]
        assert run.teacher(epoch, CPU).sha256 == weights_sha256(state)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [run.accuracy(epoch) for epoch in (1, 2, 3)] == [line["val_accuracy"] for line in lines]
    assert math.isnan(run.accuracy(0)) and math.isnan(run.accuracy(9))


def test_a_line_that_is_being_written_does_not_count(experts, tmp_path):
    run = ExpertRun(shutil.copytree(expert_folder(experts, 0), tmp_path / "run"), (0, 1, 2, 3))
    known = run.accuracy(2)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "val_acc')
    assert run.accuracy(2) == known and math.isnan(run.accuracy(4))


def test_an_epoch_that_is_not_kept_is_refused(tmp_path):
    run = ExpertRun(tmp_path, (0, 1, 2, 3, 8, 10, 11))
    with pytest.raises(InputError, match="has no checkpoint of epoch 5; it has those of epochs 0-3, 8, 10-11"):
        run.check(5)
    with pytest.raises(InputError, match="epoch 5"):
        run.teacher(5, CPU)


def test_a_folder_without_experts_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no experts; train some with `fastlabel study experts"):
            find_experts(folder)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"arguments": {}}'])
def test_a_folder_without_a_configuration_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"no readable config\.json"):
        ExpertRun(tmp_path, (0,)).identity()


@pytest.mark.fault("11.7 an expert's run that was killed")
def test_the_last_epoch_of_a_run_that_was_stopped_is_not_taken_for_its_end(data, experts, tmp_path):
    """Beside the paper's figures of a whole run; an epoch that is asked for is taken."""
    stopped = shutil.copytree(experts, tmp_path / "experts")
    (expert_folder(stopped, 0) / "epoch-003.pt").unlink()
    assert find_experts(experts)[0].final == 3
    assert find_experts(stopped)[0].last == 2
    for name in ("baseline", "expert-epoch", "temperature", "ensemble", "label-swap"):
        with pytest.raises(InputError, match=r"expert-0 was stopped after epoch 2 of 3: finish it .*--epoch"):
            run_study(find_study(name), study_config(data, stopped, tmp_path / name))
        assert not (tmp_path / name).exists()
    assert Workbench(study_config(data, stopped, tmp_path / "out")).one_epoch((2,)) == 2
