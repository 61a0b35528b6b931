"""Training of experts: every checkpoint there, the same bits after an interruption, no folder mixed up."""

from __future__ import annotations

import json

import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.models.weights import read_checkpoint
from fastlabel.studies import experts as module
from fastlabel.studies.experts import expert_folder, expert_seed, train_experts
from fastlabel.studies.in_memory import decode_pixels, whitening_of
from fastlabel.teachers.teacher import load_teacher
from tests.studies.tiny import ARCH, CLASSES, EPOCHS, SIDE, experts_config

pytestmark = pytest.mark.slow  # each trains networks

PLAIN = "convnet-d1-w8"


def states(folder):
    """The weights of every checkpoint."""
    return {path.name: read_checkpoint(path)["state"] for path in sorted(folder.glob("*.pt"))}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        assert state.keys() == found[name].keys()
        assert all(torch.equal(found[name][key], value) for key, value in state.items()), name


def test_a_checkpoint_for_every_epoch_and_metrics(experts):
    for number in range(2):
        folder = expert_folder(experts, number)
        assert sorted(path.name for path in folder.glob("*.pt")) == [f"epoch-{e:03d}.pt" for e in range(4)] + [
            "last.pt"
        ]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2, 3]
        assert all(0 <= line["val_accuracy"] <= 1 and line["train_loss"] > 0 for line in lines)
        assert lines[-1]["val_accuracy"] > 1.5 / CLASSES  # they learn
        config = json.loads((folder / "config.json").read_text())
        assert config["run"]["arch"] == ARCH and config["arguments"]["count"] == 2


def test_the_accuracy_is_that_of_the_whole_classifier(data, experts):
    """A checkpoint, whitening included, gets the test accuracy that its training noted."""
    from fastlabel.dataset.beton import Beton

    teacher, val = load_teacher(expert_folder(experts, 1) / "epoch-002.pt"), Beton.open(data.test)
    pixels = decode_pixels(val, torch.arange(val.num_samples).numpy(), SIDE)
    hits = (teacher.model(pixels).argmax(1).numpy() == val.targets).mean()
    metrics = json.loads((expert_folder(experts, 1) / "metrics.jsonl").read_text().splitlines()[1])
    assert metrics["val_accuracy"] == pytest.approx(hits)


def test_experts_differ_but_share_their_whitening(experts):
    one, other = (load_teacher(expert_folder(experts, number) / "epoch-000.pt").model for number in range(2))
    assert torch.equal(whitening_of(one).matrix, whitening_of(other).matrix)
    assert not torch.equal(whitening_of(one).matrix, torch.eye(3 * SIDE**2))
    weights = [model.net[1].features[0].weight for model in (one, other)]
    assert not torch.equal(*weights)
    assert len({expert_seed(seed, number) for seed in range(9) for number in range(9)}) == 81


def test_the_same_command_gives_the_same_bits_and_trains_nothing_again(data, tmp_path):
    one, again = tmp_path / "one", tmp_path / "again"
    # Both here: sums of floats depend on the number of threads, which another test may have left different.
    for folder in (one, again):
        train_experts(experts_config(data, folder, count=1))
    assert_same(states(expert_folder(one, 0)), states(expert_folder(again, 0)))
    before = {path: path.stat().st_mtime_ns for path in expert_folder(one, 0).glob("*.pt")}
    (history,) = train_experts(experts_config(data, one, count=1))
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in expert_folder(one, 0).glob("*.pt")} == before


@pytest.mark.parametrize("arch", [ARCH, PLAIN])
def test_an_interrupted_training_ends_with_the_same_bits(data, tmp_path, arch):
    """Stopped in each epoch of both experts in turn: at the first, a middle, and after the last step of it."""
    train_experts(experts_config(data, tmp_path / "whole", arch=arch, count=2))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train_experts(experts_config(data, tmp_path / "cut", arch=arch, count=2), Impatient(6))
    train_experts(experts_config(data, tmp_path / "cut", arch=arch, count=2))
    for number in range(2):
        whole, cut = (expert_folder(tmp_path / name, number) for name in ("whole", "cut"))
        assert_same(states(cut), states(whole))
        untimed = [
            [
                {name: value for name, value in json.loads(line).items() if "second" not in name}
                for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            for folder in (whole, cut)
        ]
        assert untimed[0] == untimed[1]


class Impatient:
    """Presses Ctrl-C after so many of the 4 steps of each epoch."""

    def __init__(self, steps):
        self.left = steps

    def start(self, step, epochs, steps_per_epoch):
        assert (step % steps_per_epoch, epochs, steps_per_epoch) == (0, EPOCHS, 4)

    def step(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def epoch(self, metrics):
        assert metrics["epoch"] <= EPOCHS


def test_a_folder_grows_by_experts(data, tmp_path):
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    train_experts(experts_config(data, whole, count=2))
    train_experts(experts_config(data, grown, count=1))
    train_experts(experts_config(data, grown, count=2))
    for number in range(2):
        assert_same(states(expert_folder(grown, number)), states(expert_folder(whole, number)))


@pytest.mark.parametrize("change", [{"arch": PLAIN}, {"seed": 1}, {"augment": "none"}, {"size": 6}])
def test_another_configuration_in_the_folder_is_refused(data, experts, change):
    before = states(expert_folder(experts, 0))
    with pytest.raises(InputError, match=f"holds another run: its {next(iter(change))} is"):
        train_experts(experts_config(data, experts, **change))
    assert_same(states(expert_folder(experts, 0)), before)


def test_keep_every(data, tmp_path):
    train_experts(experts_config(data, tmp_path, keep_every=2))
    kept = {path.name for path in expert_folder(tmp_path, 0).glob("epoch-*.pt")}
    assert kept == {"epoch-000.pt", "epoch-002.pt", "epoch-003.pt"}


def test_impossible_configurations_are_refused(data, tmp_path):
    with pytest.raises(InputError, match="count and keep-every must be 1 or more, not 0 and 1"):
        experts_config(data, tmp_path, count=0)
    with pytest.raises(InputError, match="unknown augmentation"):
        train_experts(experts_config(data, tmp_path, augment="colour"))
    assert not list(tmp_path.iterdir())


def test_images_of_several_sizes_need_a_size(photos, tmp_path):
    from fastlabel.dataset.beton import Beton

    with pytest.raises(InputError, match="say which --size"):
        module.image_size(Beton.open(photos), None)
    assert module.image_size(Beton.open(photos), 32) == 32
