"""Who a process is among others, what they agree on, and how a lost one is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fastlabel.errors import FastlabelError, InputError
from fastlabel.system.ranks import GPU_PATIENCE, PATIENCE, Ranks, talking

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, *values: object) -> None:
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, str(value))


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.current() == Ranks(0, 1, 0)
    told(monkeypatch, 5, 8, 1)
    assert Ranks.current() == Ranks(5, 8, 1)
    told(monkeypatch, "five", 8, 1)
    with pytest.raises(InputError, match="expected whole numbers"):
        Ranks.current()
    told(monkeypatch, 8, 8, 0)
    with pytest.raises(InputError, match="RANK is 8 and WORLD_SIZE 8"):
        Ranks.current()


def test_a_process_group_that_is_there_is_believed_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, 1, 2, 1)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # torch sets its own, and leaves it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert Ranks.current() == Ranks(0, 1, 1)
    finally:
        dist.destroy_process_group()
    assert Ranks.current() == Ranks(1, 2, 1)


def test_alone_everything_is_local() -> None:
    with Ranks().group() as ranks:
        assert (ranks.agree(3), ranks.gather(4), ranks.sum([1.5]), ranks.largest(1, 2)) == (3, [4], [1.5], [1, 2])
        with pytest.raises(KeyError):
            ranks.on_first(lambda: {}["nothing"])
    assert not dist.is_initialized()


def test_each_rank_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's current one too: a teacher that says "cuda" would land on the first GPU on every rank."""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cuda, own = torch.device("cuda"), torch.device("cuda:3")
    assert Ranks(3, 8, 3).device(cuda) == own and taken == [own]
    assert [Ranks(3, 8, 3).device(torch.device(name)) for name in ("cpu", "cuda:1")] == [
        torch.device("cpu"),
        torch.device("cuda:1"),
    ]
    assert Ranks().device(cuda) == cuda and len(taken) == 1
    with pytest.raises(InputError, match="has 4 GPUs and rank 5 of it wants one too"):
        Ranks(4, 8, 4).device(cuda)


def test_a_lost_rank_is_known_by_where_it_fails_not_by_words() -> None:
    with (
        pytest.raises(FastlabelError, match=r"another rank of this run has ended or is silent.*\(some words\)"),
        talking(),
    ):
        raise RuntimeError("some words\nand more")
    for own in (torch.OutOfMemoryError("gloo"), NotImplementedError("nccl"), ValueError("connection reset")):
        with pytest.raises(type(own)) as raised, talking():
            raise own
        assert raised.value is own
    assert PATIENCE < GPU_PATIENCE  # PyTorch would end the process without a sentence


def two_ranks(driver: str, folder: Path) -> None:
    """Run `driver FOLDER` on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, driver, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_thread_of_a_group_is_left_when_python_ends(tmp_path: Path) -> None:
    """One that lets go of a tensor then aborts the process: "terminate called without an active exception"."""
    two_ranks("tests.system.leave_driver", tmp_path)
    for rank in range(2):
        assert "gloo" in (tmp_path / f"talks-{rank}").read_text()
        assert (tmp_path / f"ended-{rank}").read_text() == ""


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    two_ranks("tests.system.ranks_driver", tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    shared = {
        "agree": "of 0",
        "gather": [{"rank": 0}, {"rank": 1}],
        "sum": [1.0, 1.0],
        "largest": [1, 0],
        "first": 0,
        "again": [True, [0, 1], True],
    }
    assert {name: one[name] for name in shared} == {name: other[name] for name in shared} == shared
    assert one["failure"] == "KeyError: 'broken'"
    assert other["failure"] == "FastlabelError: rank 0 failed: 'broken'"
    assert one["lost"].startswith("FastlabelError: another rank of this run has ended or is silent")
