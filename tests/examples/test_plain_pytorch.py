"""examples/plain_pytorch.py: trains, goes on to the same batches and weights, and shares an epoch among two ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from examples.plain_pytorch import train
from fastlabel.dataset.write import write_dataset
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.views import ViewPolicy
from tests.stores import make_teacher

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 100
RANK = """
import json, os, sys
import torch.distributed as dist
from examples.plain_pytorch import train
dist.init_process_group("gloo")
net, seen = train(sys.argv[1], sys.argv[2], 1, sys.argv[3], batch_size=33)
weights = [value.double().sum().item() for value in net.module.parameters()]
print(json.dumps([seen, weights]))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A .beton of scikit-learn's digits, and labels of the first 100 under two views."""
    folder = tmp_path_factory.mktemp("digits")
    data, store = folder / "digits.beton", folder / "labels.zarr"
    write_dataset("digits:train", data, progress=False)
    options = {"views": 2, "k": 10, "policy": ViewPolicy.pad_crop(8, 1), "subset": range(SAMPLES)}
    cache_labels(data, store, [make_teacher(10, size=8)], **options)
    return data, store


def test_it_learns_what_the_teacher_says(digits: tuple[Path, Path], tmp_path: Path) -> None:
    data, store = digits
    net, seen = train(data, store, 30, tmp_path / "run.pt", batch_size=50, amp=True, temperature=1.0)
    assert [sorted(chain(*seen[at : at + 2])) for at in range(0, 60, 2)] == [list(range(SAMPLES))] * 30
    (batch,) = SoftLabelLoader(data, store, SAMPLES)
    assert batch.labels is not None
    agreed = (net(batch.images).argmax(1) == batch.labels.classes[:, 0].to(torch.int64)).float().mean()
    common = batch.labels.classes[:, 0].to(torch.int64).bincount().max() / SAMPLES
    assert agreed > common  # better than to name the most frequent class


@pytest.mark.parametrize("stop", [2, 4, 6], ids=["middle", "last batch", "middle of the second"])
def test_it_goes_on_to_the_same_batches_and_weights(digits: tuple[Path, Path], tmp_path: Path, stop: int) -> None:
    data, store = digits
    whole, wanted = train(data, store, 2, tmp_path / "whole.pt", batch_size=30)
    cut = tmp_path / "cut.pt"
    _, first = train(data, store, 2, cut, batch_size=30, save_every=1, stop_after=stop)
    again, rest = train(data, store, 2, cut, batch_size=30)
    assert len(first) == stop and first + rest == wanted
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert train(data, store, 2, cut, batch_size=30)[1] == []  # it ended at the end of an epoch


@pytest.mark.slow
def test_two_ranks_see_each_sample_once_and_train_as_one(digits: tuple[Path, Path], tmp_path: Path) -> None:
    data, store = digits
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(data), str(store), str(tmp_path / "run.pt")],
            env=os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    (one, weights), (two, same) = found
    assert weights == same and len(one) == len(two) == 4
    assert [len(a) + len(b) for a, b in zip(one, two, strict=True)] == [33, 33, 33, 1]
    assert sorted(chain(*one, *two)) == list(range(SAMPLES))
