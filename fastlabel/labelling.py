"""Labelling one unit: every image decoded once for several views, every teacher on the same crops."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.commit import UnitAddress
from fastlabel.forward import CanonicalBatches, TeacherForward
from fastlabel.images.load import ImageLoader
from fastlabel.labels import TopKLabels
from fastlabel.manifest import DECODE_VIEWS
from fastlabel.store import LabelStore, compressed_bytes, empty_labels


def label_unit(
    store: LabelStore,
    unit: UnitAddress,
    images: ImageLoader,
    forwards: list[TeacherForward],
    teachers: list[int],
    advance: Callable[[int], Any],
) -> None:
    """Label one unit by some of the store's teachers, whose numbers are ``teachers``, and commit it for each.

    ``advance`` is told of the crops as they are done.
    """
    ids = store.unit_ids(unit)
    labels = [empty_labels(store.manifest.teachers[teacher].codec, unit.shape) for teacher in teachers]
    for first in range(unit.view_start, unit.view_stop, DECODE_VIEWS):
        views = range(first, min(first + DECODE_VIEWS, unit.view_stop))
        batches = CanonicalBatches(len(views), forwards[0].batch, images.policy.size, images.device)
        with images.epoch(ids, views) as epoch:
            for stage_VBHWC, batch_ids, start in batches.regroup(epoch):
                rows = slice(start, start + len(batch_ids))
                for v, view in enumerate(views):
                    for forward, arrays in zip(forwards, labels, strict=True):
                        encoded = forward.labels(stage_VBHWC[v], batch_ids, view)
                        _store_rows(arrays, view - unit.view_start, rows, encoded)
                    advance(len(batch_ids))
    sizes = images.beton.heights[ids], images.beton.widths[ids]
    boxes = [images.policy.boxes(view, ids, *sizes) for view in range(unit.view_start, unit.view_stop)]
    for teacher, arrays in zip(teachers, labels, strict=True):
        store.write(unit, teacher, arrays, boxes)


def _store_rows(arrays: dict[str, NDArray[Any]], view: int, rows: slice, labels: TopKLabels) -> None:
    arrays["classes"][view, rows] = labels.classes.cpu().numpy()
    arrays["codes"][view, rows] = labels.codes.cpu().numpy()
    arrays["tail"][view, rows] = labels.tail.cpu().numpy()


def try_labelling(
    images: ImageLoader, forwards: list[TeacherForward], ids: NDArray[np.int64], views: range
) -> tuple[float, int]:
    """Label some samples into nowhere: seconds, and bytes of the labels when compressed."""
    started, compressed = time.monotonic(), 0
    batches = CanonicalBatches(len(views), forwards[0].batch, images.policy.size, images.device)
    with images.epoch(ids, views) as epoch:
        for stage_VBHWC, batch_ids, _ in batches.regroup(epoch):
            for v, view in enumerate(views):
                for forward in forwards:
                    compressed += compressed_bytes(forward.labels(stage_VBHWC[v], batch_ids, view))
    return time.monotonic() - started, compressed
