"""Planes that a thread reads ahead reach the reader's stream with an event, and their memory waits for that stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastlabel.loading import prefetch
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store.plane import PlaneStack
from fastlabel.system import streams

MakeStore = Callable[..., Path]


class Recorder:
    """What is asked of streams, in order: (what, thread, subject)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, Any]] = []

    def add(self, what: str, subject: Any) -> None:
        self.calls.append((what, threading.get_ident(), subject))

    def of(self, what: str) -> list[Any]:
        return [subject for name, _, subject in self.calls if name == what]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """The CPU as if it had streams: one for each thread."""
    found = Recorder()

    class Event:
        def record(self, stream: int) -> None:
            found.add("record", (self, stream))

    class Stream(int):
        def wait_event(self, event: Event) -> None:
            found.add("wait", (event, int(self)))

    original = PlaneStack.of

    def joined(planes: Any) -> PlaneStack:
        stack = original(planes)
        found.add("join", stack)
        return stack

    monkeypatch.setattr(streams, "has_streams", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(threading.get_ident()))
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: found.add("keep", (tensor, int(stream))))
    monkeypatch.setattr(prefetch.PlaneStack, "of", joined)
    yield found


@pytest.mark.parametrize("M", [1, 2])
@pytest.mark.parametrize("subset", [None, [7, 2, 9, 4]])
def test_a_reader_waits_for_its_planes_and_keeps_their_memory(
    photos: Path, make_store: MakeStore, recorder: Recorder, M: int, subset: list[int] | None
) -> None:
    if subset is not None:  # rows of their own, which reach the device as well
        make_store(subset=subset)
        subset = [*subset, 0, 11]
    loader = SoftLabelLoader(photos, make_store(subset=subset), batch_size=4 * M, views_per_image=M)
    me = threading.get_ident()
    for epoch in range(3):
        recorder.calls.clear()
        batches = list(loader)
        waits, kept = recorder.of("wait"), recorder.of("keep")
        ((event, reader),) = waits
        assert reader == me
        sources = {id(batch.labels.plane.codes) for batch in batches}  # type: ignore[union-attr]
        assert len(sources) == 1
        wanted = batches[0].labels.plane  # type: ignore[union-attr]
        assert [id(tensor) for tensor, _ in kept[:3]] == [id(tensor) for tensor in wanted]
        assert len(kept) == (3 if subset is None else 4) and {stream for _, stream in kept} == {me}
        if epoch == 0:
            # By the thread that joined the planes, after it did.
            join, record = (
                next(at for at, (what, *_) in enumerate(recorder.calls) if what == name) for name in ("join", "record")
            )
            made, maker = recorder.calls[record][2]
            assert made is event and maker == recorder.calls[join][1] != me
            assert join < record < [what for what, *_ in recorder.calls].index("wait")


def test_without_streams_nothing_is_asked(photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("asked for a stream")

    monkeypatch.setattr(torch.cuda, "current_stream", refuse)
    assert len(list(SoftLabelLoader(photos, make_store(), batch_size=4))) == 3


@contextmanager
def late_default_stream() -> Iterator[None]:
    """The default stream is far behind, so that what the prefetch thread queues there comes late."""
    work = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        work = (work @ work).clamp(-1, 1)
    yield
    torch.cuda.synchronize()


@pytest.mark.gpu
def test_labels_on_another_stream_are_those_of_the_cpu(photos: Path, make_store: MakeStore) -> None:
    store = make_store(views=6)
    wanted = SoftLabelLoader(photos, store, batch_size=4, views_per_image=2)
    with late_default_stream(), torch.cuda.stream(torch.cuda.Stream()):
        found = SoftLabelLoader(photos, store, batch_size=4, device="cuda", views_per_image=2)
        for _ in range(9):
            for there, here in zip(found, wanted, strict=True):
                assert there.labels is not None and here.labels is not None
                assert torch.equal(there.labels.codes.cpu(), here.labels.codes)
