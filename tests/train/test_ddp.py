"""Two ranks under torchrun train as one process does, stop together, go on, and never wait for a lost one."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import InputError
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier
from fastlabel.models.weights import read_checkpoint
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import drops_last, prepare
from fastlabel.train.process_group import training_ranks
from fastlabel.views import ViewPolicy
from tests.ddp_driver import EPOCHS, run_command, student_arguments, train_uneven
from tests.stores import make_teacher

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("seconds", "images_per_second")
CPU = torch.device("cpu")
WAIT = 200  # seconds, for a machine with much else to do


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two ranks on this machine. Only torchrun's own variables tell them who they are."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT, cwd=ROOT, check=False
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def make_data(folder: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        place = folder / "images" / f"class{index % 3}" / f"{index:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((16, 16)).save(place)
    write_dataset(folder / "images", folder / "data.beton", write_mode="jpg", progress=False)
    cache_labels(folder / "data.beton", folder / "labels.zarr", [make_teacher()], views=3, k=2, policy="pad-crop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks made by tests/ddp_driver.py, and one process by the same commands in `one`."""
    folder = tmp_path_factory.mktemp("ddp")
    make_data(folder)
    done = torchrun("tests.ddp_driver", folder)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (folder / f"codes-{rank}").read_text() == "0 143 0"
    # Rank 0 alone tells the outcome, of the first and of the resumed run.
    assert done.stdout.count("epoch-020.pt: top-1") == 2
    assert run_command(student_arguments(folder, folder / "one")) == 0
    train_uneven(folder, folder / "uneven-one", Ranks())
    train_uneven(folder, folder / "pairs-one", Ranks(), views_per_image=2)
    return folder


def assert_near(run: Path, other: Path, checkpoint: str) -> None:
    """The same training but for the order of sums, whose rounding grows from step to step."""
    for line, wanted in zip(metrics(run), metrics(other), strict=True):
        # One image more or less that is hit is 1/60.
        near, flip = (1e-4, 1e-5) if line["epoch"] <= 3 else (0.03, 0.04)
        assert line.pop("phase", None) == wanted.pop("phase", None)  # a text, which is not near another
        assert line == pytest.approx(wanted, rel=near, abs=flip)
    weights, wanted_weights = (read_checkpoint(path / checkpoint)["state"] for path in (run, other))
    near = 1e-3 if len(metrics(run)) <= 3 else 0.03
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, wanted_weights[name], rtol=near, atol=near / 3)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(folder: Path) -> None:
    assert len(metrics(folder / "two")) == EPOCHS
    assert_near(folder / "two", folder / "one", "epoch-020.pt")
    first, last = metrics(folder / "one")[0], metrics(folder / "one")[-1]
    assert last["train_loss"] < first["train_loss"] - 0.01


@pytest.mark.slow
@pytest.mark.parametrize("run", ["uneven", "pairs"])
def test_a_last_batch_of_fewer_samples_than_ranks(folder: Path, run: str) -> None:
    """With one view of each image, and with two."""
    assert_near(folder / run, folder / f"{run}-one", "epoch-003.pt")


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_and_both_go_on(folder: Path) -> None:
    """To the very weights of the ranks that nobody stopped."""
    assert metrics(folder / "stopped") == metrics(folder / "two")
    for name in ("epoch-020.pt",):
        assert (folder / "stopped" / name).read_bytes() == (folder / "two" / name).read_bytes()


@pytest.mark.slow
def test_one_process_takes_up_what_two_ranks_left(folder: Path) -> None:
    last = read_checkpoint(folder / "copy" / "last.pt")
    assert 3 <= last["epoch"] < EPOCHS and len(last["ranks"]) == 2
    steps = {share["tally"]["steps"] for share in last["ranks"]}
    assert len(steps) == 1 and sum(share["tally"]["images"] for share in last["ranks"]) == min(60, 8 * steps.pop())
    assert run_command([*student_arguments(folder, folder / "copy"), "--resume"]) == 0
    assert_near(folder / "copy", folder / "two", "epoch-020.pt")


@pytest.mark.slow
def test_an_error_on_one_rank_ends_the_other(folder: Path, tmp_path: Path) -> None:
    """A broken image that only rank 1 decodes."""
    data = tmp_path / "broken.beton"
    data.write_bytes((folder / "data.beton").read_bytes())
    order = SoftLabelLoader(data, None, 8, policy=ViewPolicy.identity(16), rank=1, world_size=2)
    broken = int(list(order)[2].ids[1])
    beton = Beton.open(data)
    with open(data, "r+b") as file:
        file.seek(int(beton.offsets[broken]))
        file.write(bytes(int(beton.nbytes[broken])))
    options = [
        "--arch",
        "convnet-d1-w8",
        "--epochs",
        9,
        "--batch-size",
        8,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    began = time.monotonic()
    done = torchrun("fastlabel.cli.main", "train-teacher", data, "--val", folder / "data.beton", *options)
    assert done.returncode == 1 and time.monotonic() - began < WAIT / 2
    assert f"error: sample {broken} of {data} cannot be decoded" in done.stderr
    assert "another rank of this run has ended" in done.stderr or "SIGTERM" in done.stderr
    assert done.stdout == "" and metrics_written(tmp_path / "run") == 0


def metrics_written(run: Path) -> int:
    return len(metrics(run)) if (run / "metrics.jsonl").exists() else 0


def two_ranks(rank: int = 0) -> Ranks:
    return Ranks(rank, 2, rank)


def test_batch_norm_never_gets_a_single_image() -> None:
    plain, normed = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(normed))
    dropped = {
        name: [rest for rest in range(8) if drops_last(80 + rest, 8, model, ranks)]
        for name, model, ranks in (
            ("plain", plain, Ranks()),
            ("plain on two", plain, two_ranks()),
            ("batch norm", normed, Ranks()),
            ("batch norm on two", normed, two_ranks()),
            ("synchronised on two", synchronised, two_ranks()),
        )
    }
    assert dropped == {
        "plain": [1],
        "plain on two": [1],
        "batch norm": [1],
        "batch norm on two": [1, 2, 3],
        "synchronised on two": [1],
    }
    assert not drops_last(5, 8, normed, two_ranks())
    with pytest.raises(InputError, match="batches of 3 images leave less than 2 to each of 2 ranks"):
        drops_last(3, 8, normed, two_ranks())
    # Two crops of an image are enough for it: a batch of 8 crops has 4 images, and an image goes to one rank.
    for model, ranks, wanted in ((normed, Ranks(), []), (normed, two_ranks(), [1]), (plain, two_ranks(), [])):
        assert [rest for rest in range(4) if drops_last(80 + rest, 8, model, ranks, views_per_image=2)] == wanted


def test_synchronised_batch_norm_needs_cuda() -> None:
    model = Classifier(make_teacher().model.spec)
    assert prepare(model, True, Ranks(), CPU) is model and prepare(model, False, two_ranks(), CPU) is model
    with pytest.raises(InputError, match="on CUDA only, not on cpu"):
        prepare(model, True, two_ranks(), CPU)
    normed: nn.Module = nn.Sequential(nn.BatchNorm1d(3))
    made = prepare(normed, True, two_ranks(), torch.device("cuda:0"))  # type: ignore[arg-type]
    assert isinstance(next(iter(made.children())), nn.SyncBatchNorm)


def test_cores_are_shared_by_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    four = Ranks(1, 8, 1)
    assert (four.workers(0), four.workers(7), Ranks().workers(0), Ranks().workers(2)) == (3, 7, 0, 2)


def test_one_gpu_for_two_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="one GPU, and there are 2 ranks"), training_ranks(torch.device("cuda:0")):
        pass
    monkeypatch.setenv("LOCAL_RANK", "100")
    with pytest.raises(InputError, match="wants one too"), training_ranks(torch.device("cuda")):
        pass
