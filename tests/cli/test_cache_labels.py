"""fastlabel cache-labels and train-student as one types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from fastlabel.cli.cache_labels import torchrun_line
from fastlabel.store.store import LabelStore
from fastlabel.train.checkpoint import save_checkpoint
from fastlabel.views import Mixing, PixelOperations, ViewSpec
from tests.stores import digests, make_teacher

Cli = Callable[..., Result]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "expert" / "epoch-003.pt"
    path.parent.mkdir()
    save_checkpoint(path, make_teacher().model, epoch=3, metrics={})
    return path


@pytest.mark.usefixtures("lines_at_once")
def test_label_then_train(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    store = tmp_path / "labels.zarr"
    label = ["cache-labels", photos, store, "--teacher", teacher, "--views", 2, "--k", 3]
    dry = cli(*label, "--dry-run")
    assert dry.exit_code == 0 and "24 crops (12 samples x 2 views)" in dry.stdout and not store.exists()
    done = cli(*label)
    assert done.exit_code == 0 and "labelled 24 crops" in done.stdout, done.stderr
    assert "24 of 24 crops (100 %)" in done.stderr
    report = json.loads(cli(*label, "--json").stdout)
    assert report["crops_done"] == 0 and report["teachers"] == ["expert-epoch-003"]
    train = ["train-student", photos, store, "--val", photos, "--arch", "convnet-d1-w8", "--epochs", 2]
    for labels, extra in (("cache", []), ("hard", []), ("online", ["--teacher", teacher])):
        run = tmp_path / labels
        result = cli(*train, "--labels", labels, *extra, "--ipc", 2, "--out", run)
        assert result.exit_code == 0 and "top-1" in result.stdout, result.stderr
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_subset_file(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("3\n8\n")
    options = ["--teacher", teacher, "--views", 1, "--k", 1]
    result = cli("cache-labels", photos, tmp_path / "a.zarr", *options, "--subset", tmp_path / "ids.txt")
    assert result.exit_code == 0
    assert LabelStore.open(tmp_path / "a.zarr").ids.tolist() == [3, 8]
    (tmp_path / "ids.txt").write_text("3\nseven\n")
    result = cli("cache-labels", photos, tmp_path / "b.zarr", *options, "--subset", tmp_path / "ids.txt")
    assert result.exit_code == 2 and "one whole number a line" in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--k", 4], 2, "k=4 is more than num_classes=3"),
        (["--teacher", "nowhere.pt"], 1, "nowhere.pt does not exist"),
        (["--precision", "fp8"], 2, "unknown precision 'fp8'"),
        (["--mean", "0.5,0.5,0.5"], 2, "says its mean and std itself"),
        (["--mean", "0.5,red"], 2, "--mean: could not convert string to float: 'red'"),
        (["--arch", "resnet18", "--arch", "-", "--arch", "-"], 2, "--arch is given 3 times for 1 teachers"),
        (["--teacher-size", 0], 2, "expected a size in pixels, found 0"),
        (["--ipc", 9], 2, "class 0 has 4 images"),
        (["--view-policy", "zoom"], 2, "unknown view policy 'zoom'; choose one of"),
    ],
)
def test_errors_are_one_line(
    cli: Cli, photos: Path, teacher: Path, tmp_path: Path, change: list[object], code: int, message: str
) -> None:
    store = tmp_path / "labels.zarr"
    result = cli("cache-labels", photos, store, "--teacher", teacher, "--views", 1, "--k", 1, *change)
    assert result.exit_code == code and message in result.stderr and "Traceback" not in result.stderr
    assert not store.exists()


def test_a_truncated_dataset(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    photos.write_bytes(photos.read_bytes()[:-100])
    result = cli("cache-labels", photos, tmp_path / "l.zarr", "--teacher", teacher, "--views", 1, "--k", 1)
    assert result.exit_code == 2 and "truncated" in result.stderr and not (tmp_path / "l.zarr").exists()


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_same_bytes(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """Stop or kill a real run once its first unit is committed; 192 views make three units of 64."""
    torch.manual_seed(0)
    arguments = ["--teacher", str(teacher), "--views", "192", "--k", "2", "--forward-batch", "4"]

    def command(store: Path) -> list[str]:
        return [sys.executable, "-m", "fastlabel.cli.main", "cache-labels", str(photos), str(store), *arguments]

    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    assert cli(*command(whole)[3:]).exit_code == 0
    for number, returncode in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = subprocess.Popen(command(killed), stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not (killed / "0" / "units" / "0.0" / "zarr.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == returncode, stderr
        if number != signal.SIGKILL:
            assert f"{number.name}: finishing the unit in hand" in stderr
            assert f"error: stopped by {number.name}" in stderr and "give the same command again to go on" in stderr
            # Nothing of a unit that is not committed is left behind.
            assert digests(killed).items() <= digests(whole).items()
        assert digests(killed) != digests(whole)
        if number != signal.SIGINT:  # the test of SIGTERM stands for both, as a start takes seconds
            assert cli(*command(killed)[3:]).exit_code == 0
            assert digests(killed) == digests(whole)
        shutil.rmtree(killed)


@pytest.mark.slow
def test_two_ranks_write_the_bytes_of_one_process(photos: Path, teacher: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = ["--teacher", str(teacher), "--views", "200", "--k", "2", "--forward-batch", "4", "--transform", "2"]
    arguments += ["--cutmix", "0.5", "--mixup", "0.5", "--mix-block", "4"]
    single = [sys.executable, "-m", "fastlabel.cli.main", "cache-labels", str(photos), str(one), *arguments]
    subprocess.run(single, check=True, capture_output=True, env=environment)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    sharded = [*launcher, "-m", "fastlabel.cli.main", "cache-labels", str(photos), str(two), *arguments, "--json"]
    first = subprocess.run(sharded, check=True, capture_output=True, env=environment, text=True)
    assert json.loads(first.stdout)["crops_done"] == 12 * 200  # one rank alone reports, for both
    assert digests(two) == digests(one)


@pytest.mark.slow
def test_ranks_with_other_teachers_are_refused(photos: Path, tmp_path: Path) -> None:
    """Each rank names its own checkpoint: rank 0's manifest must not stand for the labels of both."""
    for rank in range(2):
        save_checkpoint(tmp_path / f"{rank}.pt", make_teacher(seed=rank).model, epoch=3, metrics={})
    store = tmp_path / "labels.zarr"
    script = f"exec {sys.executable} -m fastlabel.cli.main cache-labels {photos} {store} --views 1 --k 1 --teacher "
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    started = [*launcher, "bash", "-c", script + str(tmp_path) + "/$RANK.pt"]
    failed = subprocess.run(started, capture_output=True, text=True, timeout=120)
    assert failed.returncode != 0 and not store.exists()
    assert "the ranks of this run disagree: teachers[0].sha256" in failed.stderr


@pytest.mark.slow
def test_sigterm_before_anything_is_labelled(photos: Path, teacher: Path, tmp_path: Path) -> None:
    arguments = ["--teacher", str(teacher), "--views", "20000", "--k", "2", "--dry-run", "--forward-batch", "1"]
    command = [sys.executable, "-m", "fastlabel.cli.main", "cache-labels", str(photos), str(tmp_path / "l.zarr")]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and b"SIGTERM" not in _caught(process.pid):
        time.sleep(0.002)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and "error: interrupted" in stderr


def _caught(pid: int) -> bytes:
    """Names of the signals that a process handles itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
    return b" ".join(number.name.encode() for number in signal.Signals if mask >> (number - 1) & 1)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_the_other(photos: Path, tmp_path: Path) -> None:
    """Rank 0 finds no store folder to write to; rank 1 must not wait for it for ever."""
    store = tmp_path / "file" / "labels.zarr"
    (tmp_path / "file").write_text("")
    save_checkpoint(tmp_path / "t.pt", make_teacher().model, epoch=3, metrics={})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [
        "cache-labels",
        str(photos),
        str(store),
        "--teacher",
        str(tmp_path / "t.pt"),
        "--views",
        "1",
        "--k",
        "1",
    ]
    failed = subprocess.run(
        [*launcher, "-m", "fastlabel.cli.main", *arguments], capture_output=True, text=True, timeout=120
    )
    assert failed.returncode != 0 and "error: " in failed.stderr


def test_other_gpus_of_the_machine_are_named(
    cli: Cli, photos: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torchrun_line(4, ["cache-labels", "a b.beton", "--k", "3"]) == (
        "this machine has 4 GPUs, one of which labels; all of them do with: "
        "torchrun --nproc-per-node 4 -m fastlabel.cli.main cache-labels 'a b.beton' --k 3"
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    label = ["cache-labels", photos, tmp_path / "a.zarr", "--teacher", teacher, "--views", 1, "--k", 1, "--dry-run"]
    assert "torchrun --nproc-per-node 4" in cli(*label).stderr
    assert "torchrun" not in cli(*label, "--device", "cpu").stderr


def test_mixing_options(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """They reach the manifest; a detail without mixing is an error, and so is a block of an odd size."""
    out = tmp_path / "mixed.zarr"
    base = ["cache-labels", photos, out, "--teacher", teacher, "--views", 2, "--k", 2, "--size", 16]
    alone = cli(*base, "--mix-block", 8)
    assert alone.exit_code == 2 and "--mix-block says how views are mixed, and none is" in alone.stderr
    for extra, message in (
        (["--cutmix", 1, "--cutmix-alpha", 0], "cutmix_alpha is 0"),
        (["--cutmix", 1, "--mix-block", 0], "mix block 0 must be"),
        (["--cutmix", 1, "--mixup-alpha", 0.4], "mixup_alpha is given, and the probability of mixup is 0"),
    ):
        failed = cli(*base, *extra)
        assert failed.exit_code == 2 and message in failed.stderr and not out.exists()
    odd = cli(*base, "--cutmix", 1, "--mix-block", 7)
    assert odd.exit_code == 2 and "mix block 7 is odd" in odd.stderr and not out.exists()
    assert cli(*base, "--cutmix", 1.5).exit_code == 2
    done = cli(*base, "--cutmix", 0.5, "--mixup", 0.25, "--mixup-alpha", 0.2, "--mix-block", 8, "--mix-shared")
    assert done.exit_code == 0, done.stderr
    wanted = Mixing.of(cutmix=0.5, mixup=0.25, mixup_alpha=0.2, block=8, shared=True)
    assert LabelStore.open(out).views.mixing == wanted
    assert cli("verify", out, photos, "--teacher", teacher).exit_code == 0
    assert "seed 0, CutMix 0.5 and MixUp 0.25 in blocks of 8, one draw a block" in cli("inspect", out).stdout


@pytest.mark.slow
def test_view_options(cli: Cli, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """They win over a file, reach the manifest, and fail in one line."""
    base = ["cache-labels", photos, tmp_path / "l.zarr", "--teacher", teacher, "--views", 1, "--k", 2]
    for extra, message in (
        (["--view-policy", "centre"], "unknown view policy 'centre'"),
        (["--padding", 2], "padding is a parameter of pad-crop views"),
        (["--scale", "0.5"], "is not two numbers with ',' between them"),
        (["--scale", "0.9,0.5"], "must lie above 0, in order"),
    ):
        failed = cli(*base, *extra)
        assert failed.exit_code == 2 and message in failed.stderr and not (tmp_path / "l.zarr").exists()
    (tmp_path / "mixed.toml").write_text("[mixing]\ncutmix = 1.0\n")
    both = cli(*base, "--view-policy", tmp_path / "mixed.toml", "--mixup", 0.5)
    assert both.exit_code == 2 and "say all of it there, or all by options" in both.stderr
    (tmp_path / "views.toml").write_text("scale = [0.2, 0.4]\nseed = 3\n[pixels]\ngray = 1.0\n")
    done = cli(*base, "--view-policy", tmp_path / "views.toml", "--scale", "0.5,1", "--size", 16)
    assert done.exit_code == 0, done.stderr
    wanted = ViewSpec(size=16, seed=3, scale=(0.5, 1), pixels=PixelOperations.of(gray=1.0)).policy(16)
    assert LabelStore.open(tmp_path / "l.zarr").views == wanted
    assert "16 pixels, seed 3, gray 1" in cli("inspect", tmp_path / "l.zarr").stdout
    center = cli(*base[:2], tmp_path / "c.zarr", *base[3:], "--view-policy", "center", "--fraction", "1/1")
    assert center.exit_code == 0 and LabelStore.open(tmp_path / "c.zarr").views.fraction == (1, 1)
