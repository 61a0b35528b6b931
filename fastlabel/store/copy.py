"""copy_store: whole committed units of a store into a store of its own, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastlabel.errors import InputError, StoreError
from fastlabel.store import layout
from fastlabel.store.manifest import Manifest
from fastlabel.store.store import LabelStore, empty_store
from fastlabel.store.units import (
    Record,
    UnitAddress,
    addresses,
    count_units,
    record_path,
    shard_path,
)
from fastlabel.system.atomic_files import new_folder
from fastlabel.system.progress import Progress


@dataclass(frozen=True)
class CopyReport:
    """What a copy holds.

    Attributes:
        teachers: their names; number n of the copy is the n-th of them.
        units, units_copied: of those views and teachers; those that were committed in the source.
        bytes: of the files of the copied units.
    """

    source: str
    store: str
    samples: int
    views: int
    teachers: tuple[str, ...]
    units: int
    units_copied: int
    bytes: int


def copy_store(
    source: LabelStore | str | os.PathLike[str],
    out: str | os.PathLike[str],
    views: range | None = None,
    teachers: Sequence[int] | None = None,
    *,
    progress: bool = False,
) -> CopyReport:
    """Copy the first views of a store, and some of its teachers, to ``out``, which appears complete or not at all.

    Every copied unit is compared with its digests. Units that are not committed are left out; the copy is continued,
    or grown, by ``cache_labels`` like any store. The source may be read, and be written by one run, meanwhile.

    Args:
        views: from 0 to the end of a group of views; default all.
        teachers: numbers, which are numbered anew from 0 in this order; default all.

    Raises:
        InputError: the views do not begin at 0 or end inside of a unit, or there is no such teacher.
        StoreError: a unit of the source is damaged (names it), or something exists at ``out``.
    """
    store = source if isinstance(source, LabelStore) else LabelStore.open(source)
    numbers = _choose_teachers(store, teachers)
    manifest = replace(
        store.manifest,
        num_views=_choose_views(store, views),
        teachers=tuple(store.manifest.teachers[number] for number in numbers),
    )
    out = Path(out)
    if out.resolve().is_relative_to(store.path.resolve()):
        raise InputError(f"{out} lies inside of the store {store.path}; choose a path outside of it")
    with new_folder(out) as folder:
        layout.write_files(folder, empty_store(manifest, store.segments, store.class_names))
        copied, nbytes = _copy_units(store, folder, manifest, numbers, progress)
    units = count_units(manifest) * len(numbers)
    names = tuple(teacher.name for teacher in manifest.teachers)
    return CopyReport(
        str(store.path), str(out), manifest.num_labelled, manifest.num_views, names, units, copied, nbytes
    )


def _choose_views(store: LabelStore, views: range | None) -> int:
    have, unit = store.num_views, store.manifest.unit.views
    if views is None:
        return have
    asked = f"views {views.start}:{views.stop}"
    if views.start != 0 or views.step != 1:
        raise InputError(f"{asked} do not begin at 0; a copy keeps the numbers of its views, so take 0:{views.stop}")
    if not 0 < views.stop <= have:
        raise InputError(f"{asked} are not in {store.path}, which has views 0:{have}")
    if views.stop % unit and views.stop != have:
        below, above = views.stop // unit * unit, min((views.stop // unit + 1) * unit, have)
        borders = f"0:{below} or 0:{above}" if below else f"0:{above}"
        raise InputError(f"{asked} end inside of a unit of {store.path}, which holds {unit} views; take {borders}")
    return views.stop


def _choose_teachers(store: LabelStore, teachers: Sequence[int] | None) -> list[int]:
    have = len(store.manifest.teachers)
    if teachers is None:
        return list(range(have))
    numbers = list(teachers)
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"teachers {numbers} must be one or more, each given once")
    for number in numbers:
        if not 0 <= number < have:
            raise InputError(f"{store.path} has no teacher {number}; it has {have}, counted from 0")
    return numbers


def _copy_units(
    store: LabelStore, folder: Path, manifest: Manifest, numbers: list[int], progress: bool
) -> tuple[int, int]:
    """Copy and check every committed unit: how many there were, and their bytes."""
    units = list(addresses(manifest))
    copy = LabelStore.open(folder)
    copied = nbytes = 0
    with Progress("copy", len(units) * len(numbers), "units", shown=progress) as bar:
        for target, teacher in enumerate(numbers):
            for unit in units:
                record = store.record(unit, teacher)
                if record is not None and record.view_stop > unit.view_stop:
                    raise _changed(store)
                if record is not None:
                    nbytes += _copy_unit(store, teacher, copy, target, unit, record)
                    copied += 1
                bar.update()
    return copied, nbytes


def _copy_unit(
    store: LabelStore, teacher: int, copy: LabelStore, target: int, unit: UnitAddress, record: Record
) -> int:
    store.check_shards(unit, teacher)
    pairs = [
        *(
            (shard_path(store.path, teacher, name, unit), shard_path(copy.path, target, name, unit))
            for name in store.arrays(teacher)
        ),
        (record_path(store.path, teacher, unit), record_path(copy.path, target, unit)),
    ]
    for path, to in pairs:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    # What arrived is compared, not what was read.
    try:
        if copy.record(unit, target) != record:
            raise _changed(store)
        copy.check_labels(replace(unit, view_stop=record.view_stop), target, store.refusal(unit, teacher))
    except StoreError as error:
        # Files of two states of a unit that is written meanwhile do not fit together: that is no damage.
        raise (error if store.record(unit, teacher) == record else _changed(store)) from None
    return sum(to.stat().st_size for _, to in pairs)


def _changed(store: LabelStore) -> StoreError:
    return StoreError(f"{store.path} changed while it was copied; copy it again")
