"""Reading the planes of the next epoch while one runs."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from fastlabel.images.beton import Beton
from fastlabel.plane import LabelPlane
from fastlabel.store import LabelStore

KEEP_PLANES_BYTES = 256 << 20


class PlanePrefetcher:
    """Planes of one teacher, read ahead by a thread: small ones a unit at once, large ones singly.

    As many are kept as fit into ``KEEP_PLANES_BYTES``, and two at least.
    """

    def __init__(self, store: LabelStore, beton: Beton, teacher: int, device: torch.device) -> None:
        self._store, self._beton, self._teacher, self._device = store, beton, teacher, device
        label_bytes = store.manifest.num_labelled * store.manifest.teachers[teacher].codec.nbytes_per_label
        fit = KEEP_PLANES_BYTES // max(1, label_bytes)
        # A read has a fixed cost of some milliseconds, which a small plane alone does not earn back.
        unit = store.manifest.unit.views
        self._group = unit if fit >= 2 * unit else 1
        self._keep = max(2, fit // self._group)
        self._pending: OrderedDict[int, Future[list[LabelPlane]]] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fastlabel-planes")

    def prefetch(self, view: int) -> None:
        group = view // self._group
        known = self._pending.get(group)
        # A view that was not there when it was read ahead may be by now.
        if known is None or (known.done() and known.exception() is not None):
            self._pending[group] = self._pool.submit(self._read, group)
        self._pending.move_to_end(group)
        while len(self._pending) > self._keep:
            self._pending.popitem(last=False)

    def get(self, view: int) -> LabelPlane:
        self.prefetch(view)
        try:
            return self._pending[view // self._group].result()[view % self._group]
        except BaseException:
            # The next try shall look again: a run may be labelling these views right now.
            self._pending.pop(view // self._group, None)
            raise

    def _read(self, group: int) -> list[LabelPlane]:
        start = group * self._group
        views = range(start, min(start + self._group, self._store.num_views))
        for view in views:
            self._store.check_boxes(view, self._beton.heights, self._beton.widths, self._teacher)
        return self._store.planes(views, self._teacher, self._device)
