"""How a student uses its labels, from the command line to the loss of each step."""

from __future__ import annotations

import json

import pytest
import torch

from fastlabel import SoftLabelLoss, SparseLabels
from fastlabel.errors import InputError
from fastlabel.train import Recipe, StudentConfig
from fastlabel.train.objectives import cached_use, loss_of_epoch, online_use

from .conftest import MemoryBatch, MemoryLoader

ARCH = "convnet-d1-w8"


def losses(folder):
    return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_says_how_it_uses_labels_and_continues_only_so(train_command, tmp_path):
    options = ["--loss", "kl", "--temperature", "step:8,0.5,1,2", "--student-temperature", "1", "--keep", 2]
    options += ["--tail", "renormalise", "--hard-weight", 0.25, "--phases", "soft:1,hard:1,soft:1"]
    done = train_command(*options)
    assert done.exit_code == 0, done.stderr
    run = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    said = {"loss": "kl", "keep": 2, "tail": "renormalise", "hard_weight": 0.25, "phases": "soft:1,hard:1,soft:1"}
    assert run.items() >= {**said, "label_temperature": "step:8,0.5,1,2", "student_temperature": 1.0}.items()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["label_temperature"], line["phase"]) for line in lines] == [(8, "soft"), (4, "hard"), (2, "soft")]
    assert "student_temperature" not in lines[0]
    # The same labels in the same order, but for the second epoch, which is hard.
    hard = train_command("--labels", "hard", out="hard")
    assert hard.exit_code == 0 and len(set(losses(tmp_path / "run"))) == 3
    other = train_command("--loss", "soft-ce", *options[2:], "--resume")
    assert other.exit_code == 2 and "its loss is kl" in other.stderr.replace('"', "")


@pytest.mark.slow
def test_a_run_of_before_has_the_same_identity(train_command, tmp_path):
    """What was there before these options is written as it was."""
    assert train_command("--label-temperature", 2, epochs=1).exit_code == 0
    run = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert (run["label_temperature"], run["student_temperature"]) == (2.0, 1.0)
    assert not {"loss", "keep", "tail", "hard_weight", "phases", "temperature_squared"} & set(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "step:20,0.7"], "label_temperature is 'step:20,0.7', expected a number, step:START"),
        (["--phases", "soft:2,hard:2"], "the phases soft:2,hard:2 add up to 4 epochs, and the run has 3"),
        (["--keep", 4], "keep is 4, and the labels list 3 classes"),
        (["--hard-weight", 2], "hard_weight is 2.0, expected 0 to 1"),
        (["--loss", "gift", "--temperature", 4], "gift compares logits, which have no temperature"),
        (["--labels", "hard", "--keep", 2], "keep is for soft labels"),
        (["--student-temperature", "1e40"], "student_temperature is 1e+40, expected 1e-30 to 1e+30"),
        (["--loss", "l2"], "'l2' is not one of"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(train_command, tmp_path, options, message):
    refused = train_command(*options)
    assert refused.exit_code == 2 and message in refused.stderr, refused.stderr
    assert not (tmp_path / "run").exists()


def test_label_smoothing_needs_a_hard_part():
    base = {"data": "a", "store": "b", "val": "c", "out": "d", "arch": ARCH}
    recipe = Recipe(epochs=2, label_smoothing=0.1)
    with pytest.raises(InputError, match="label smoothing is for hard labels"):
        StudentConfig(**base, recipe=recipe)
    for options in ({"phases": "soft:1,hard:1"}, {"hard_weight": 0.5}):
        assert StudentConfig(**base, recipe=recipe, **options).use.label_smoothing == 0.1


@pytest.mark.parametrize(
    "use",
    [
        SoftLabelLoss("kl", "cosine:4,1", 2.0, keep=2, tail="renormalise", phases="soft:1,hard:1,soft:1", epochs=3),
        SoftLabelLoss("dist", 2.0, 2.0, hard_weight=0.5),
        SoftLabelLoss("mse-logits"),
        SoftLabelLoss("gift"),
    ],
    ids=lambda use: use.loss,
)
def test_online_labels_are_used_like_cached_ones(use):
    """With all classes: a cached label is then the teacher's output to half a step of 1/8 nat."""
    loader = MemoryLoader()
    logits = 3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
    student = torch.randn(40, 4, generator=torch.Generator().manual_seed(4))
    labels = SparseLabels.from_dense(torch.softmax(logits / use.temperatures(2)[0], 1))
    batch = MemoryBatch(loader.images, labels, loader.targets, torch.arange(40))

    class Teacher(torch.nn.Module):
        def forward(self, images):
            return logits

    for epoch in (1, 2):
        if use.phase(epoch) == "soft" and epoch == 1:
            continue
        cached = loss_of_epoch(cached_use(use), epoch)(student, batch)
        online = loss_of_epoch(online_use(Teacher(), use), epoch)(student, batch)
        torch.testing.assert_close(cached, online)
    without = MemoryBatch(loader.images, None, loader.targets, torch.arange(40))
    with pytest.raises(InputError, match="no soft labels"):
        loss_of_epoch(cached_use(use), 2)(student, without)
