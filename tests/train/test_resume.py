"""A run that was stopped or killed in the middle of an epoch ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel.dataset.write import write_dataset
from fastlabel.errors import InputError, Interrupted
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.weights import read_checkpoint
from fastlabel.train import StudentConfig, interruptions, train_student
from fastlabel.train.recipes import Recipe
from tests.stores import make_teacher

from .conftest import MemoryLoader

pytestmark = pytest.mark.slow  # each trains networks

TIMINGS = ("seconds", "images_per_second")
ARCH, EPOCHS, BATCH = "convnet-d1-w8", 40, 8
WAIT = 100  # seconds


def untimed(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def content(run):
    """The bytes of the checkpoints kept, the values of the last state, and the metrics without timings."""
    kept = {path.name: path.read_bytes() for path in run.glob("epoch-*.pt")}
    return kept | {"last": plain(read_checkpoint(run / "last.pt")), "metrics": untimed(run)}


def plain(value):
    """With bytes for tensors, to be compared. (Pickles of equal values differ: they share other strings.)"""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


class Crash(Exception):
    pass


class Crashing(MemoryLoader):
    """Fails when the batch after `steps` batches of all epochs is asked for."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def __iter__(self):
        for batch in super().__iter__():
            if self.left == 0:
                raise Crash
            self.left -= 1
            yield batch


@pytest.fixture
def trainer(make_trainer):
    """As make_trainer, with dropout: it draws from torch's random numbers, which must be resumed too."""

    def make(folder, **options):
        made = make_trainer(folder, recipe=Recipe(epochs=2, batch_size=16, lr=0.01, warmup=1), **options)
        made.model.net.features.append(torch.nn.Dropout(0.5))
        return made

    return make


def test_every_step_can_be_the_last_before_a_crash(tmp_path, trainer, monkeypatch):
    monkeypatch.setattr(interruptions, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(interruptions, "SHARE_OF_SAVES", 1e9)
    trainer(tmp_path / "whole").fit()
    wanted = content(tmp_path / "whole")
    for steps in range(6):
        run = tmp_path / str(steps)
        with pytest.raises(Crash):
            trainer(run, loader=Crashing(steps)).fit()
        assert (run / "last.pt").exists() == (steps > 0)
        rest = MemoryLoader()
        trainer(run, loader=rest).fit(resume=True)
        assert content(run) == wanted
        # The last step of an epoch was followed by its end: the next epoch is all that is left.
        assert rest.epochs_served == ([0, 1] if steps < 3 else [1])


def test_crashes_one_after_another(tmp_path, trainer, monkeypatch):
    trainer(tmp_path / "whole").fit()
    monkeypatch.setattr(interruptions, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(interruptions, "SHARE_OF_SAVES", 1e9)
    for _ in range(5):
        with pytest.raises(Crash):
            trainer(tmp_path / "run", loader=Crashing(1)).fit(resume=True)
    trainer(tmp_path / "run").fit(resume=True)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_between_saves_nothing_is_written(tmp_path, trainer):
    with pytest.raises(Crash):
        trainer(tmp_path / "run", loader=Crashing(2)).fit()
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_signal_in_the_evaluation_keeps_the_epoch(tmp_path, trainer):
    """It was trained, so it is only evaluated again."""
    trainer(tmp_path / "whole").fit()
    made = trainer(tmp_path / "run")
    evaluate = made.evaluate

    def signalled(model, between):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(model, between)

    made.evaluate = signalled
    with pytest.raises(Interrupted, match="SIGTERM: saved after step 3 of epoch 1") as raised:
        made.fit()
    assert raised.value.exit_code == 143
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    rest = MemoryLoader()
    trainer(tmp_path / "run", loader=rest).fit(resume=True)
    assert rest.epochs_served == [1]
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_signals_are_the_callers_again_afterwards(tmp_path, trainer):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer(tmp_path / "run").fit()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_last_state_of_another_version_is_refused(tmp_path, trainer):
    trainer(tmp_path / "run").fit()
    path = tmp_path / "run" / "last.pt"
    kept = read_checkpoint(path)
    torch.save({name: value for name, value in kept.items() if name != "loader"}, path)
    with pytest.raises(InputError, match="cannot be resumed, it lacks loader"):
        trainer(tmp_path / "run").fit(resume=True)


def test_partial_files_of_a_killed_run_are_removed(tmp_path, trainer):
    trainer(tmp_path / "run").fit()
    (tmp_path / "run" / "last.pt.partial").write_bytes(b"half")
    trainer(tmp_path / "run").fit(resume=True)
    assert not list((tmp_path / "run").glob("*.partial"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 images of 16 pixels and 3 classes, a store of 3 views, and a student's run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    pixels = np.random.default_rng(4).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        place = folder / "images" / f"class{index % 3}" / f"{index:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    write_dataset(folder / "images", folder / "data.beton", write_mode="raw", progress=False)
    cache_labels(folder / "data.beton", folder / "labels.zarr", [make_teacher()], views=3, k=2, policy="pad-crop")
    made = SimpleNamespace(data=folder / "data.beton", store=folder / "labels.zarr", whole=folder / "whole")
    train_student(student(made, made.whole))
    return made


def student(data, out, **options):
    return StudentConfig(
        data=data.data,
        store=data.store,
        val=data.data,
        out=out,
        arch=ARCH,
        recipe=Recipe(epochs=EPOCHS, batch_size=BATCH),
        eval_every=EPOCHS,
        device="cpu",
        **options,
    )


def arguments(data, out):
    """The same for the command line."""
    options = ["--epochs", EPOCHS, "--batch-size", BATCH, "--eval-every", EPOCHS, "--device", "cpu"]
    return [data.data, data.store, "--val", data.data, "--arch", ARCH, "--out", out, *options]


def start(data, out, every):
    """The command in a process of its own, which saves every so many seconds."""
    script = (
        "from fastlabel.train import interruptions\n"
        f"interruptions.SECONDS_BETWEEN_SAVES = {every}\n"
        "from fastlabel.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "train-student", *map(str, arguments(data, out)), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err


def wait_until(process, condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed(data, tmp_path):
    """SIGTERM, then SIGKILL some time after a save; then the rest. Every process starts with PyTorch's own settings."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    finish(start(data, whole, every=60))
    process = start(data, run, every=60)
    wait_until(process, lambda: epochs_written(run) >= 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 143, err
    done = check_stopped(run, err)
    assert "Traceback" not in err and out == ""
    saved = (run / "last.pt").stat().st_mtime_ns
    process = start(data, run, every=0.02)
    wait_until(process, lambda: (run / "last.pt").stat().st_mtime_ns > saved)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGKILL
    assert done <= read_checkpoint(run / "last.pt")["epoch"] < EPOCHS
    finish(start(data, run, every=60))
    assert content(run) == content(whole)


@pytest.mark.slow
def test_ctrl_c_of_the_command(data, tmp_path, cli):
    run = tmp_path / "run"

    def interrupt():
        while epochs_written(run) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    stopped = cli("train-student", *arguments(data, run))
    assert stopped.exit_code == 130 and stopped.stdout == ""
    assert 2 <= check_stopped(run, stopped.stderr) < EPOCHS
    again = cli("train-student", *arguments(data, run))
    assert again.exit_code == 2 and "already holds this run: resume it" in again.stderr
    resumed = cli("train-student", *arguments(data, run), "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert content(run) == content(data.whole)


def check_stopped(run, err):
    """The epochs done when it was stopped, of which it said the truth."""
    last = read_checkpoint(run / "last.pt")
    steps = last["ranks"][0]["tally"]["steps"]
    assert f"saved after step {steps} of epoch {last['epoch'] + 1} in {run}" in err and "--resume" in err
    assert last["epoch"] == epochs_written(run)
    return last["epoch"]


def epochs_written(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
