"""inspect_store: what a label store holds, how large it is, and what its labels say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.inspection.disk_usage import StoreFiles
from fastlabel.inspection.statistics import LabelSummary
from fastlabel.inspection.survey import LabelSurvey
from fastlabel.store.layout import columns
from fastlabel.store.manifest import VERSION, DatasetInfo, TeacherInfo, Unit
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress, count_units
from fastlabel.views import ViewPolicy

SAMPLED_LABELS = 1_000_000


@dataclass(frozen=True)
class ArrayBytes:
    """Bytes of one array's committed shards: of a crop before compression, and of all of them on disk."""

    raw_per_crop: int
    on_disk: int


@dataclass(frozen=True)
class TeacherInspection:
    """One teacher's part of a store.

    Attributes:
        units, crops: that the store has room for; committed ones of them.
        arrays: bytes of "classes", "codes" and "tail".
        record_bytes: of the committed units' records.
        labels: None where nothing is committed, or no labels were to be looked at.
        sampled_views: the views that labels were looked at, where that was not all that is committed.
    """

    number: int
    info: TeacherInfo
    units: int
    units_committed: int
    crops: int
    crops_committed: int
    arrays: dict[str, ArrayBytes]
    record_bytes: int
    labels: LabelSummary | None
    sampled_views: tuple[int, ...] | None

    @property
    def bytes_on_disk(self) -> int:
        """Of shards and records."""
        return self.record_bytes + sum(array.on_disk for array in self.arrays.values())

    @property
    def bytes_per_crop(self) -> float | None:
        """On disk, shards and records; None where nothing is committed."""
        return self.bytes_on_disk / self.crops_committed if self.crops_committed else None

    def to_dict(self) -> dict[str, Any]:
        computed = {"bytes_on_disk": self.bytes_on_disk, "bytes_per_crop": self.bytes_per_crop}
        return asdict(self) | {"info": self.info.to_dict()} | computed


@dataclass(frozen=True)
class Inspection:
    """What a store holds.

    Attributes:
        samples: how many are labelled.
        teachers: those that were asked for.
        metadata_bytes: of the nodes' metadata and the sample ids.
        uncommitted_bytes: of files that belong to no committed unit: left by a run that was cut short, or that is
            writing now.
        total_bytes: of all files below the store's folder.
    """

    store: str
    version: int
    dataset: DatasetInfo
    class_names: tuple[str, ...] | None
    samples: int
    views: ViewPolicy
    num_views: int
    unit: Unit
    teachers: tuple[TeacherInspection, ...]
    metadata_bytes: int
    uncommitted_bytes: int
    total_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {
            "views": self.views.to_dict(),
            "teachers": [teacher.to_dict() for teacher in self.teachers],
        }


def inspect_store(
    store: LabelStore | str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str] | None = None,
    *,
    teachers: Sequence[int] | None = None,
    views: Sequence[int] | None = None,
    samples: int = SAMPLED_LABELS,
    seed: int = 0,
    per_class: bool = False,
    progress: bool = False,
) -> Inspection:
    """Look at a store; one that is only partly committed is looked at as far as it is.

    Args:
        beton: its dataset file, for the agreement with the hard labels and the classes that they name.
        teachers: which ones; default all.
        views: labels of these alone are looked at; default all.
        samples: labels to look at of each teacher: where there are more, a random sample of that many, from 8 of the
            views. 0 looks at all.
        seed: of that sample.
        per_class: fill in ``LabelSummary.classes``.

    Raises:
        InputError: a teacher, a view or a number that there is not.
        StoreError: the store is damaged. ManifestMismatchError: it is of another dataset.
    """
    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    chosen = _numbers("teacher", teachers, len(opened.manifest.teachers))
    looked_at = _numbers("view", views, opened.num_views)
    if samples < 0:
        raise InputError(f"samples {samples} must be 0 (look at all labels) or more")
    data = None if beton is None else Beton.open(beton)
    if data is not None:
        opened.check_dataset(data.num_samples, data.fingerprint(progress), data.path)
    manifest = opened.manifest
    committed = [opened.committed(teacher) for teacher in range(len(manifest.teachers))]
    files, found = StoreFiles(opened.path), []
    for teacher, units in enumerate(committed):
        sizes = files.take_units(opened, teacher, units)
        if teacher in chosen:
            chunks = [(unit, v) for unit in units for v in range(unit.view_start, unit.view_stop) if v in looked_at]
            survey = LabelSurvey(opened, teacher, data, per_class, progress)
            found.append(_inspect_teacher(survey, units, *sizes, *survey.look_at(chunks, samples, seed)))
    return Inspection(
        store=str(opened.path),
        version=VERSION,
        dataset=manifest.dataset,
        class_names=opened.class_names,
        samples=len(opened.ids),
        views=manifest.views,
        num_views=opened.num_views,
        unit=manifest.unit,
        teachers=tuple(found),
        metadata_bytes=files.metadata_bytes(),
        uncommitted_bytes=files.uncommitted_bytes(),
        total_bytes=files.total,
    )


def _numbers(what: str, chosen: Sequence[int] | None, count: int) -> frozenset[int]:
    numbers = frozenset(range(count) if chosen is None else chosen)
    wrong = sorted(number for number in numbers if not 0 <= number < count)
    if wrong:
        raise InputError(f"the store has no {what} {wrong[0]}; it has {count}, counted from 0")
    return numbers


def _inspect_teacher(
    survey: LabelSurvey,
    units: list[UnitAddress],
    sizes: dict[str, int],
    record_bytes: int,
    labels: LabelSummary | None,
    sampled_views: tuple[int, ...] | None,
) -> TeacherInspection:
    codec = survey.info.codec
    raw = {name: width * dtype.itemsize for name, (width, dtype) in columns(codec).items()}
    return TeacherInspection(
        number=survey.teacher,
        info=survey.info,
        units=count_units(survey.store.manifest),
        units_committed=len(units),
        crops=survey.store.num_views * len(survey.store.ids),
        crops_committed=_crops(units),
        arrays={name: ArrayBytes(raw[name], sizes[name]) for name in raw},
        record_bytes=record_bytes,
        labels=labels,
        sampled_views=sampled_views,
    )


def _crops(units: Iterable[UnitAddress]) -> int:
    return sum(unit.shape[0] * unit.shape[1] for unit in units)
