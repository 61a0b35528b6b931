"""Reading the planes of the next epoch while one runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.store.plane import LabelPlane, PlaneStack
from fastlabel.store.store import LabelStore
from fastlabel.system.forks import renew_after_fork
from fastlabel.system.streams import mark, receive

KEEP_PLANES_BYTES = 256 << 20
_Made = tuple[PlaneStack, Any]  # and the event after it on the stream of the thread that reads ahead


class PlanePrefetcher:
    """Planes of one teacher, read ahead by a thread: small ones a unit at once, large ones singly.

    As many are kept as fit into `KEEP_PLANES_BYTES`, and two at least. Those of an epoch of several views are joined
    by the same thread.
    """

    def __init__(self, store: LabelStore, beton: Beton, teacher: int, device: torch.device) -> None:
        self._store, self._beton, self._teacher, self._device = store, beton, teacher, device
        label_bytes = store.manifest.num_labelled * store.manifest.teachers[teacher].codec.nbytes_per_label
        fit = KEEP_PLANES_BYTES // max(1, label_bytes)
        # A read has a fixed cost of some milliseconds, which a small plane alone does not earn back.
        unit = store.manifest.unit.views
        self._group = unit if fit >= 2 * unit else 1
        self._keep = max(2, fit // self._group)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin with nothing read, and a thread of this process."""
        self._pending: OrderedDict[int, Future[list[LabelPlane]]] = OrderedDict()
        self._next: tuple[tuple[int, ...], Future[_Made]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fastlabel-planes")

    def prefetch(self, views: Sequence[int]) -> None:
        """Begin to read what :meth:`get` will be asked for next."""
        self._next = (tuple(views), self._start(views))

    def get(self, views: Sequence[int]) -> PlaneStack:
        """The planes of an epoch's views, in their order.

        Raises:
            MissingLabelsError, StoreError, ManifestMismatchError: of one of them, as `LabelStore.plane` does.
        """
        known, self._next = self._next, None
        # A view that was not there when it was read ahead may be by now: a run may be labelling it.
        if known is None or known[0] != tuple(views) or _failed(known[1]):
            known = (tuple(views), self._start(views))
        stack, made = known[1].result()
        receive(made, stack.tensors)
        return stack

    def _start(self, views: Sequence[int]) -> Future[_Made]:
        reads = [(self._read_ahead(view), view % self._group) for view in views]
        # One thread takes one task after another: the reads are done before it joins them.
        return self._pool.submit(self._join, reads)

    def _join(self, reads: Sequence[tuple[Future[list[LabelPlane]], int]]) -> _Made:
        stack = PlaneStack.of([read.result()[at] for read, at in reads])
        return stack, mark(self._device)

    def _read_ahead(self, view: int) -> Future[list[LabelPlane]]:
        group = view // self._group
        known = self._pending.get(group)
        if known is None or _failed(known):
            self._pending[group] = known = self._pool.submit(self._read, view)
        self._pending.move_to_end(group)
        while len(self._pending) > self._keep:
            self._pending.popitem(last=False)
        return known

    def _read(self, wanted: int) -> list[LabelPlane]:
        start = wanted // self._group * self._group
        views = range(start, min(start + self._group, self._store.num_views))
        # First the one that was asked for, or an error would name another one.
        for view in dict.fromkeys([wanted, *views]):
            self._store.check_boxes(view, self._beton.heights, self._beton.widths, self._teacher)
        return self._store.planes(views, self._teacher, self._device)


def _failed(future: Future[Any]) -> bool:
    return future.done() and future.exception() is not None
