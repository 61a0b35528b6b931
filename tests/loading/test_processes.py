"""A loader in other processes and threads: forked, spawned, served, pickled, in DataLoader workers."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fastlabel.errors import FastlabelError
from fastlabel.images.loader import ImageLoader
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.loading.share import Share
from fastlabel.system import forks
from fastlabel.views import ViewPolicy

# Python 3.12 warns of every fork of a process that has threads, which this one has.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
MakeStore = Callable[..., Path]
Shown = list[tuple[list[int], bytes, list[float]]]
PATIENCE = 240  # seconds for a child; a hang is what these tests look for


def shown(batches: Any) -> Shown:
    """Ids, pixels and probabilities of batches, as plain values."""
    return [
        (batch.ids.tolist(), batch.images.numpy().tobytes(), batch.labels.dense().flatten().tolist())
        for batch in batches
    ]


def epochs_of(loader: SoftLabelLoader, epochs: int, answer: Connection) -> None:
    """In a child: what some epochs show."""
    answer.send([shown(loader) for _ in range(epochs)])


def rest_of(iterator: Iterator[Any], loader: SoftLabelLoader, answer: Connection) -> None:
    """In a forked child: what becomes of an epoch of the parent, and of a new one."""
    try:
        found: Any = shown(iterator)
    except FastlabelError as error:
        found = str(error)
    loader.set_epoch(0)
    answer.send((found, shown(loader)))


def ask(method: str, target: Callable[..., None], *arguments: Any) -> Any:
    """What a child sends back; the test fails where it does not, in time."""
    context: Any = multiprocessing.get_context(method)
    mine, other = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(*arguments, other))
    child.start()
    other.close()
    try:
        assert mine.poll(PATIENCE), f"no answer of the child within {PATIENCE} seconds"
        return mine.recv()
    finally:
        child.join(5)
        child.kill()


@pytest.mark.fault("11.10 a loader in a forked process")
@pytest.mark.parametrize("M", [1, 2])
def test_a_used_loader_is_forked(photos: Path, make_store: MakeStore, M: int) -> None:
    store = make_store(views=4)
    wanted = [shown(loader) for loader in [SoftLabelLoader(photos, store, 4 * M, views_per_image=M)] for _ in range(5)]
    loader = SoftLabelLoader(photos, store, 4 * M, views_per_image=M)
    assert shown(loader) == wanted[0]
    assert ask("fork", epochs_of, loader, 3) == wanted[1:4]
    # The child's epochs are not the parent's.
    assert shown(loader) == wanted[1]


@pytest.mark.fault("11.10 a loader in a forked process")
def test_a_loader_is_forked_in_the_middle_of_an_epoch(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    wanted = shown(SoftLabelLoader(photos, store, 2))
    loader = SoftLabelLoader(photos, store, 2)
    iterator = iter(loader)
    first = shown(islice(iterator, 1))
    found, anew = ask("fork", rest_of, iterator, loader)
    assert "begun before the process was forked" in found and anew == wanted
    assert first + shown(iterator) == wanted


@pytest.mark.fault("11.10 a loader in a forked process")
def test_a_fork_waits_for_a_batch_in_hand(photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second later it is decoded; one that never ends does not keep a fork for ever."""
    store = make_store()
    wanted = shown(SoftLabelLoader(photos, store, 5))
    loader = SoftLabelLoader(photos, store, 5)
    loader._images.busy.acquire()
    timer = threading.Timer(0.5, loader._images.busy.release)
    timer.start()
    assert ask("fork", epochs_of, loader, 1) == [wanted]
    timer.join()
    assert not loader._images.busy.locked()
    monkeypatch.setattr(forks, "SECONDS_TO_WAIT", 0.1)
    with loader._images.busy:
        assert ask("fork", epochs_of, loader, 1) == [wanted]
    assert not loader._images.busy.locked()


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_loader_is_sent_to_a_new_process(photos: Path, make_store: MakeStore, method: str) -> None:
    loader = SoftLabelLoader(photos, make_store(), 5, seed=3)
    list(loader)
    iterator = iter(loader)
    first = shown(islice(iterator, 1))
    rest, after = ask(method, epochs_of, loader, 2)
    assert rest == shown(iterator) and first + rest != after and len(after) == len(loader)
    assert after == shown(loader)


def test_a_pickled_loader_is_the_same(photos: Path, make_store: MakeStore) -> None:
    options: dict[str, Any] = {"indices": [3, 1, 4, 10, 5, 9], "class_map": [2, 0, 1], "num_workers": 1}
    loader = SoftLabelLoader(photos, make_store(), 4, seed=7, rank=1, world_size=2, views_per_image=2, **options)
    iterator = iter(loader)
    next(iterator)
    again = pickle.loads(pickle.dumps(loader))
    assert again.state_dict() == loader.state_dict() and repr(again) == repr(loader)
    assert again.share == loader.share and again.ids.tolist() == [3, 1, 4, 10, 5, 9]
    assert shown(again) == shown(iterator)
    bare = SoftLabelLoader(photos, None, 4, policy=ViewPolicy.center(16), drop_last=True, shuffle=False)
    copy = pickle.loads(pickle.dumps(bare))
    assert copy.policy == bare.policy and [b.ids.tolist() for b in copy] == [b.ids.tolist() for b in bare]


def test_a_pickled_loader_takes_the_rank_of_its_new_process(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()

    def be(rank: int, world_size: int) -> None:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world_size)):
            monkeypatch.setenv(name, str(value))

    be(0, 3)
    loader, given = SoftLabelLoader(photos, store, 6, "auto"), SoftLabelLoader(photos, store, 6, rank=2, world_size=4)
    iterator = iter(loader)
    next(iterator)
    sent, sent_given = pickle.dumps(loader), pickle.dumps(given)
    be(1, 2)
    again = pickle.loads(sent)
    assert again.share == Share(1, 2) and again.state_dict() == loader.state_dict()
    other = SoftLabelLoader(photos, store, 6)
    assert shown(again) == shown(other)[1:]
    assert pickle.loads(sent_given).share == Share(2, 4)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    # As a worker of a DataLoader is, whose parent is in a process group: it works for that rank.
    worker = pickle.loads(sent)
    assert worker.share == Share(0, 3) and shown(worker) == shown(iterator)
    be(1, 2)
    assert pickle.loads(pickle.dumps(worker)).share == Share(1, 2)


def test_a_pickled_loader_keeps_what_it_was_asked_for(photos: Path) -> None:
    loader = SoftLabelLoader(photos, None, 4, "auto", policy=ViewPolicy.center(16), resident_bytes=7)
    for again in (loader, pickle.loads(pickle.dumps(loader))):
        asked = again.__getstate__()["arguments"]
        names = ("device", "rank", "world_size", "resident_bytes")
        assert [asked[name] for name in names] == ["auto", None, None, 7]


def test_a_pickled_batch_has_its_own_labels_alone(photos: Path, make_store: MakeStore) -> None:
    batch = next(iter(SoftLabelLoader(photos, make_store(), 3)))
    assert batch.labels is not None
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.labels.dense(), batch.labels.dense()) and torch.equal(again.images, batch.images)
    assert not hasattr(again.labels, "source") and len(again.labels) == 3


def test_a_loader_in_another_thread(photos: Path, make_store: MakeStore) -> None:
    store, found = make_store(), []
    loader = SoftLabelLoader(photos, store, 5)
    thread = threading.Thread(target=lambda: found.extend([shown(loader), shown(loader)]))
    thread.start()
    thread.join(PATIENCE)
    other = SoftLabelLoader(photos, store, 5)
    assert found == [shown(other), shown(other)]


class Batches(IterableDataset[tuple[list[int], torch.Tensor]]):
    """The batches of a loader, dealt out to the workers of a DataLoader."""

    def __init__(self, loader: SoftLabelLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[list[int], torch.Tensor]]:
        info = get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for at, batch in enumerate(self.loader):
            if at % workers == number:
                assert batch.labels is not None
                yield batch.ids.tolist(), batch.labels.dense()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_dataloader(photos: Path, make_store: MakeStore, method: str) -> None:
    loader = SoftLabelLoader(photos, make_store(), 2)
    wanted = {tuple(batch.ids.tolist()): batch.labels.dense() for batch in loader if batch.labels is not None}
    loader.set_epoch(0)
    workers = DataLoader(
        Batches(loader), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=PATIENCE
    )
    found = {tuple(ids): dense for ids, dense in workers}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[ids], wanted[ids]) for ids in wanted)


def decode_in_child(loader: ImageLoader, answer: Connection) -> None:
    with loader.epoch(np.arange(12), [0]) as batches:
        answer.send([batch.images.numpy().tobytes() for batch in batches])


def test_an_image_loader_is_forked_in_the_middle_of_an_epoch(photos: Path) -> None:
    loader = ImageLoader(photos, ViewPolicy.center(16), 1)
    with loader.epoch(np.arange(12), [0]) as batches:
        first = [next(batches).images.numpy().tobytes()]
        found = ask("fork", decode_in_child, loader)
        assert found == first + [batch.images.numpy().tobytes() for batch in batches]
