from __future__ import annotations

import json

import pytest
import torch

from fastlabel.errors import FastlabelError, InputError
from fastlabel.models.weights import read_checkpoint
from fastlabel.system.devices import pick_device
from fastlabel.teachers.teacher import load_teacher
from fastlabel.train import epoch_metrics as tally
from fastlabel.train.loop import fastest_convolutions
from fastlabel.train.objectives import cached_loss, hard_loss
from fastlabel.train.recipes import Recipe

from .conftest import MemoryLoader

TIMINGS = ("seconds", "images_per_second")


def untimed(history):
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in history]


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("epoch-*.pt"))}


class Crash(Exception):
    pass


class CrashingLoader(MemoryLoader):
    def __init__(self, epoch):
        super().__init__()
        self.crash_in = epoch

    def __iter__(self):
        for step, batch in enumerate(super().__iter__()):
            if self.epoch == self.crash_in and step == 1:
                raise Crash
            yield batch


def test_a_run_learns_and_keeps_its_checkpoints_and_metrics(tmp_path, make_trainer):
    history = make_trainer(tmp_path / "run", epochs=5).fit()
    assert [line["epoch"] for line in history] == [1, 2, 3, 4, 5]
    assert history[-1]["val_accuracy"] == 1
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert list(files(tmp_path / "run")) == [f"epoch-{epoch:03d}.pt" for epoch in range(6)]
    kept = read_checkpoint(tmp_path / "run" / "epoch-005.pt")
    assert kept["metrics"] == untimed(history)[-1]
    assert load_teacher(tmp_path / "run" / "epoch-005.pt").epoch == 5


def test_the_same_run_twice_gives_the_same_bytes(tmp_path, make_trainer):
    one = make_trainer(tmp_path / "a").fit()
    torch.rand(3)
    assert untimed(make_trainer(tmp_path / "b").fit()) == untimed(one)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert untimed(make_trainer(tmp_path / "c", seed=1).fit()) != untimed(one)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, make_trainer, optimizer):
    # Dropout draws from torch's global random numbers: their state must be resumed too.
    def dropout(trainer):
        trainer.model.net.features.append(torch.nn.Dropout(0.5))
        return trainer

    options = {"recipe": Recipe(epochs=4, batch_size=16, optimizer=optimizer, lr=0.01, warmup=1)}
    whole = dropout(make_trainer(tmp_path / "whole", **options)).fit()
    with pytest.raises(Crash):
        dropout(make_trainer(tmp_path / "run", loader=CrashingLoader(2), **options)).fit()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    resumed = dropout(make_trainer(tmp_path / "run", **options)).fit(resume=True)
    assert untimed(resumed) == untimed(whole)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_metrics_after_the_last_state_saved_are_written_again(tmp_path, make_trainer):
    run = tmp_path / "run"
    options = {"epochs": 6, "eval_every": 3, "keep_every": 0}
    whole = make_trainer(tmp_path / "whole", **options).fit()
    with pytest.raises(Crash):
        make_trainer(run, loader=CrashingLoader(4), **options).fit()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 5, "train_l')
    resumed_loader = MemoryLoader()
    resumed = make_trainer(run, loader=resumed_loader, **options).fit(resume=True)
    assert resumed_loader.epochs_served == [3, 4, 5]
    assert untimed(resumed) == untimed(whole)
    assert list(files(run)) == ["epoch-006.pt"]


def test_a_crash_before_the_first_state_starts_again(tmp_path, make_trainer):
    with pytest.raises(Crash):
        make_trainer(tmp_path / "run", loader=CrashingLoader(0)).fit()
    resumed = make_trainer(tmp_path / "run").fit(resume=True)
    assert untimed(resumed) == untimed(make_trainer(tmp_path / "whole").fit())


def test_resuming_a_finished_run_changes_nothing(tmp_path, make_trainer):
    history = make_trainer(tmp_path / "run").fit()
    before = files(tmp_path / "run")
    loader = MemoryLoader()
    assert make_trainer(tmp_path / "run", loader=loader).fit(resume=True) == history
    assert loader.epochs_served == []
    assert files(tmp_path / "run") == before


def test_another_run_or_a_folder_in_use_is_refused_and_left_alone(tmp_path, make_trainer):
    run = tmp_path / "run"
    make_trainer(run, epochs=1).fit()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match="already holds this run"):
        make_trainer(run, epochs=1).fit()
    with pytest.raises(InputError, match=r"another run: its recipe\.epochs is 1, this one has 2"):
        make_trainer(run, epochs=2).fit(resume=True)
    with pytest.raises(InputError, match="its seed is 0, this one has 4"):
        make_trainer(run, epochs=1, seed=4).fit()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_of_other_things_and_a_file_are_refused(tmp_path, make_trainer):
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(InputError, match="holds no run"):
            make_trainer(tmp_path).fit(resume)
        with pytest.raises(InputError, match="is a file"):
            make_trainer(tmp_path / "notes.txt").fit(resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("steps_between_checks", [1, 2, 50])
def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path, make_trainer, monkeypatch, steps_between_checks):
    monkeypatch.setattr(tally, "STEPS_BETWEEN_CHECKS", steps_between_checks)
    calls = []

    def loss(logits, batch):
        calls.append(1)
        return hard_loss()(logits, batch) * (float("nan") if len(calls) == 5 else 1)

    with pytest.raises(FastlabelError, match="became nan in epoch 2, step 2"):
        make_trainer(tmp_path / "run", loss=loss).fit()
    assert read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 1


def test_evaluation_and_checkpoints_keep_their_rhythm_and_the_last_epoch(tmp_path, make_trainer):
    history = make_trainer(tmp_path / "run", epochs=5, eval_every=2, keep_every=3).fit()
    assert [line["epoch"] for line in history if "val_loss" in line] == [2, 4, 5]
    assert list(files(tmp_path / "run")) == ["epoch-000.pt", "epoch-003.pt", "epoch-005.pt"]


def test_a_student_learns_from_stored_labels(tmp_path, make_trainer):
    recipe = Recipe(epochs=30, batch_size=16, lr=0.1, weight_decay=0)
    history = make_trainer(tmp_path / "run", loss=cached_loss(), recipe=recipe, eval_every=30).fit()
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.2


def test_progress_is_reported(tmp_path, make_trainer):
    events = []

    class Listener:
        def start(self, epoch, epochs, steps_per_epoch):
            events.append(("start", epoch, epochs, steps_per_epoch))

        def step(self, images):
            events.append(("step", images))

        def epoch(self, metrics):
            events.append(("epoch", metrics["epoch"]))

    make_trainer(tmp_path / "run", epochs=1, reporter=Listener()).fit()
    assert events == [("start", 0, 1, 3), ("step", 16), ("step", 16), ("step", 8), ("epoch", 1)]


def test_bfloat16_learns_about_as_float32_does(tmp_path, make_trainer):
    """On the CPU as well, where it is not the default; the loss gets the network's own logits."""
    dtypes = set()

    def loss(logits, batch):
        dtypes.add(logits.dtype)
        return cached_loss()(logits, batch)

    exact, rough = (
        make_trainer(tmp_path / str(amp), loss=loss, recipe=Recipe(epochs=3, batch_size=16, lr=0.05, amp=amp))
        for amp in (None, True)
    )
    assert (exact.recipe.amp, rough.recipe.amp) == (False, True)
    one, other = exact.fit(), rough.fit()
    assert dtypes == {torch.float32, torch.bfloat16}
    assert untimed(one) != untimed(other)
    assert other[-1]["train_loss"] == pytest.approx(one[-1]["train_loss"], rel=0.02)
    assert {tensor.dtype for tensor in rough.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_network_trains_as_it_is(tmp_path, make_trainer):
    """With a last batch of another size, to checkpoints that load like any other."""
    plain, compiled = (
        make_trainer(tmp_path / str(made), recipe=Recipe(epochs=2, batch_size=16, lr=0.05, compile=made))
        for made in (False, True)
    )
    for line, wanted in zip(untimed(compiled.fit()), untimed(plain.fit()), strict=True):
        assert line == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert isinstance(compiled.network, torch._dynamo.eval_frame.OptimizedModule)
    names = [read_checkpoint(tmp_path / made / "epoch-002.pt")["state"].keys() for made in ("True", "False")]
    assert names[0] == names[1]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_cudnn_times_its_algorithms_while_training_alone(kind):
    before = torch.backends.cudnn.benchmark
    with fastest_convolutions(torch.device(kind)):
        assert torch.backends.cudnn.benchmark == (before or kind == "cuda")
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.parametrize("options", [{"keep_every": -1}, {"eval_every": 0}])
def test_options_that_cannot_be_used_touch_nothing(tmp_path, make_trainer, options):
    with pytest.raises(InputError):
        make_trainer(tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InputError, match="unknown device"):
        pick_device("gpu0")
