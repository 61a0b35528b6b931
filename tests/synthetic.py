"""Stores of labels that follow from teacher, view and sample by a formula: no images, no teachers, many in a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastlabel.digests import ids_digest
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.grow import Growth, grown_store
from fastlabel.store.manifest import DatasetInfo, Manifest, Segment, TeacherInfo, Unit
from fastlabel.store.store import LabelStore, empty_labels
from fastlabel.store.units import UnitAddress
from fastlabel.views import ViewPolicy

NUM_SAMPLES, NUM_CLASSES = 16, 10
CLASS_NAMES = tuple("abcdefghij")
UNIT = Unit(2, 4)


def teacher(number: int, k: int = 3) -> TeacherInfo:
    return TeacherInfo(
        name=f"teacher-{number}",
        arch="convnet-d1-w8",
        sha256=f"{number:064x}",
        epoch=1,
        size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="fp32",
        tf32=False,
        device="cpu",
        forward_batch=4,
        codec=TopKCodec(k, NUM_CLASSES),
    )


def manifest(
    ids: Sequence[int], views: int, teachers: Iterable[TeacherInfo] = (teacher(0),), seed: int = 0, unit: Unit = UNIT
) -> Manifest:
    """Of a run that labels some samples; its store holds them as one segment."""
    return Manifest(
        DatasetInfo(NUM_SAMPLES, NUM_CLASSES, "f" * 64),
        (Segment(len(ids), ids_digest(np.array(ids))),),
        ViewPolicy.random_resized_crop(32, seed),
        views,
        unit,
        tuple(teachers),
    )


def expected(info: TeacherInfo, view: int, ids: Any) -> dict[str, np.ndarray]:
    """classes, codes and tail [n, ...] of some samples."""
    labels = {name: array[0] for name, array in empty_labels(info.codec, (1, len(ids))).items()}
    at = np.asarray(ids)[:, None] * 131 + view * 17 + int(info.sha256, 16) * 29
    kept = np.arange(info.codec.k)
    labels["classes"][:] = (at + kept) % NUM_CLASSES
    labels["codes"][:] = kept * (1 + at % 9)
    labels["tail"][:] = np.concatenate([1 + at % 251, labels["codes"][:, -1:] + at % 5], axis=1)
    return labels


def fill(store: LabelStore, unit: UnitAddress, number: int) -> None:
    """Label and commit one unit."""
    ids, views = store.unit_ids(unit), range(unit.view_start, unit.view_stop)
    planes = [expected(store.manifest.teachers[number], view, ids) for view in views]
    labels = {name: np.stack([plane[name] for plane in planes]) for name in planes[0]}
    sizes = np.full(len(ids), 50)
    store.write(unit, number, labels, [store.views.boxes(view, ids, sizes, sizes) for view in views])


def run(
    path: Path,
    ids: Sequence[int],
    views: int,
    teachers: Iterable[TeacherInfo] = (teacher(0),),
    most: int | None = None,
    **options: Any,
) -> Growth:
    """What cache_labels does: make the store or let it grow, and label what is missing, ``most`` units of it."""
    wanted = manifest(ids, views, teachers, **options)
    with ExitStack() as held:
        growth = held.enter_context(grown_store(path, wanted, np.array(ids), CLASS_NAMES))
        assert growth.store is not None
        todo = [(unit, number) for unit, numbers in growth.todo() for number in numbers]
        for unit, number in todo[:most]:
            fill(growth.store, unit, number)
    return growth


def check(store: LabelStore, teachers: Iterable[int] | None = None) -> None:
    """Every label of a store, in two orders of the samples, is the one that the formula gives."""
    for number in range(len(store.manifest.teachers)) if teachers is None else teachers:
        for view in range(store.num_views):
            plane = store.plane(view, number)
            assert len(plane) == len(store.ids)
            for ids in (store.ids, store.ids[::-1][::2]):
                wanted = expected(store.manifest.teachers[number], view, ids)
                found = plane[ids.copy()]
                for name in wanted:
                    np.testing.assert_array_equal(getattr(found, name).numpy(), wanted[name])
