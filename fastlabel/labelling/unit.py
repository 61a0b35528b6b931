"""Labelling one unit: every image decoded once for several views, every teacher on the same crops."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastlabel.images.loader import ImageLoader
from fastlabel.labelling.forward import CanonicalBatches, StartedLabels, TeacherForward
from fastlabel.labels.topk import TopKLabels
from fastlabel.store.manifest import DECODE_VIEWS
from fastlabel.store.store import LabelStore, compressed_bytes, empty_labels
from fastlabel.store.units import UnitAddress
from fastlabel.system.signals import StopRequest
from fastlabel.views import crop_table

Item = TypeVar("Item")
Todo = Sequence[tuple[UnitAddress, list[int]]]  # units, or the views that they lack, and the teachers that lack them


def passes(todo: Todo) -> int:
    """How many crops it takes: one is made twice where one teacher lacks fewer views of its unit than another."""
    return sum(unit.shape[0] * unit.shape[1] for unit, _ in todo)


def label_units(
    store: LabelStore,
    todo: Iterable[tuple[UnitAddress, list[int]]],
    images: ImageLoader,
    forwards: dict[int, TeacherForward],
    advance: Callable[[int], Any],
    stop: StopRequest | None,
) -> Iterator[tuple[UnitAddress, list[int], list[dict[str, NDArray[Any]]]]]:
    """Label units, each by the teachers that lack it, by number; give each with its labels when it is committed.

    Raises:
        Interrupted: ``stop`` was requested; between two units.
        StoreError: a unit that is to gain views is damaged; before anything of it is labelled.
    """
    for unit, lacking in todo:
        if stop is not None:
            stop.check("what is committed is kept; give the same command again to go on")
        for teacher in lacking:
            store.check_grown(unit, teacher)
        yield unit, lacking, label_unit(store, unit, images, [forwards[one] for one in lacking], lacking, advance)


def label_unit(
    store: LabelStore,
    unit: UnitAddress,
    images: ImageLoader,
    forwards: list[TeacherForward],
    teachers: list[int],
    advance: Callable[[int], Any],
) -> list[dict[str, NDArray[Any]]]:
    """Label one unit by some of the store's teachers, whose numbers are `teachers`, and commit it for each.

    `advance` is told of the crops as they are done. Returns the labels that each of them gave, arrays [V, N, ...].
    """
    ids = store.unit_ids(unit)
    labels = [empty_labels(store.manifest.teachers[teacher].codec, unit.shape) for teacher in teachers]
    for first in range(unit.view_start, unit.view_stop, DECODE_VIEWS):
        views = range(first, min(first + DECODE_VIEWS, unit.view_stop))
        # Closed even where an error keeps it: its thread decodes until then.
        with closing(_start(images, forwards, ids, views)) as batches:
            for batch in one_behind(batches):
                for arrays, encoded, forward in zip(labels, batch.finish(forwards), forwards, strict=True):
                    _store_rows(arrays, batch.view - unit.view_start, batch.rows, forward.info.codec.arrays(encoded))
                advance(len(batch.ids))
    sizes = images.beton.heights, images.beton.widths
    boxes = [crop_table(images.policy, images.partners, view, ids, *sizes) for view in unit.views]
    for teacher, arrays in zip(teachers, labels, strict=True):
        store.write(unit, teacher, arrays, boxes)
    return labels


@dataclass(frozen=True)
class _Started:
    """One canonical batch of a view, whose labels every teacher has begun to make."""

    view: int
    ids: NDArray[np.int64]
    rows: slice
    labels: list[StartedLabels]

    def finish(self, forwards: list[TeacherForward]) -> list[TopKLabels]:
        pairs = zip(forwards, self.labels, strict=True)
        return [forward.finish(labels, self.ids, self.view) for forward, labels in pairs]


def _start(
    images: ImageLoader, forwards: list[TeacherForward], ids: NDArray[np.int64], views: range
) -> Generator[_Started, None, None]:
    batches = CanonicalBatches(len(views), forwards[0].batch, images.policy.size, images.device)
    with images.epoch(ids, views) as epoch:
        for stage_VBHWC, batch_ids, start in batches.regroup(epoch):
            rows = slice(start, start + len(batch_ids))
            for view, stage_BHWC in zip(views, stage_VBHWC, strict=True):
                labels = [forward.start(stage_BHWC, len(batch_ids)) for forward in forwards]
                yield _Started(view, batch_ids, rows, labels)


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each after the next one was made: so that a GPU has work while the labels before it are stored."""
    waiting: list[Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _store_rows(arrays: dict[str, NDArray[Any]], view: int, rows: slice, encoded: dict[str, NDArray[Any]]) -> None:
    for name, values in encoded.items():
        arrays[name][view, rows] = values


def try_labelling(
    images: ImageLoader, forwards: list[TeacherForward], ids: NDArray[np.int64], views: range
) -> Iterator[tuple[int, int]]:
    """Label some samples into nowhere: crops, and bytes of their labels when compressed, of each batch once it is done.

    To be closed by one who leaves it early.
    """
    with closing(_start(images, forwards, ids, views)) as batches:
        for batch in one_behind(batches):
            pairs = zip(batch.finish(forwards), forwards, strict=True)
            yield len(batch.ids), sum(compressed_bytes(labels, forward.info.codec) for labels, forward in pairs)
