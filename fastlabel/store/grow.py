"""From the store that is there to the store that a labelling run asks for: more views, samples, teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlabel.digests import ids_digest
from fastlabel.errors import InputError, ManifestMismatchError
from fastlabel.store.manifest import Manifest, Segment, TeacherInfo, check_same
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress, address, addresses, sweep, writing
from fastlabel.views import segment_order


@dataclass(frozen=True, eq=False)
class Growth:
    """What a run adds to a store.

    Attributes:
        store: what is there; None where there is nothing yet.
        manifest: of the store that the run fills.
        teachers: the number, in that store, of each teacher of the run.
        new_ids: int64, in `segment_order`: samples that the store lacks. All of the run's where there is no store.
    """

    store: LabelStore | None
    manifest: Manifest
    teachers: tuple[int, ...]
    new_ids: NDArray[np.int64]

    def todo(self) -> list[tuple[UnitAddress, list[int]]]:
        """What the run has to label: units of the grown store, and the teachers that lack them.

        Of a unit that has grown, only the views that it lacks. StoreError where a committed unit has lost files.
        """
        return [part for unit in addresses(self.manifest) for part in self._parts(unit)]

    def _parts(self, unit: UnitAddress) -> list[tuple[UnitAddress, list[int]]]:
        lacking: dict[int, list[int]] = {}
        for teacher in self.teachers:
            lacking.setdefault(self._committed_views(unit, teacher), []).append(teacher)
        starts = sorted(start for start in lacking if start < unit.view_stop)
        return [(replace(unit, view_start=start), lacking[start]) for start in starts]

    def _committed_views(self, unit: UnitAddress, teacher: int) -> int:
        """Up to which view a teacher has committed a unit of the grown store."""
        if self.store is None or teacher >= len(self.store.manifest.teachers):
            return unit.view_start
        known = address(self.store.manifest, unit.row, unit.column)
        if known is None or known.sample_stop != unit.sample_stop:
            return unit.view_start
        record = self.store.record(known, teacher)
        if record is None:
            return unit.view_start
        self.store.check_shards(known, teacher)
        return record.view_stop


def distinct_crops(todo: Sequence[tuple[UnitAddress, list[int]]]) -> int:
    """How many crops lack the label of some teacher, of what ``Growth.todo`` gives: each counted once."""
    widest: dict[tuple[int, int], int] = {}
    for unit, _ in todo:
        place = unit.row, unit.column
        widest[place] = max(widest.get(place, 0), unit.shape[0] * unit.shape[1])
    return sum(widest.values())


def plan_growth(path: Path, wanted: Manifest, ids: NDArray[np.int64]) -> Growth:
    """Compare a run with the store at its path, and change nothing.

    Args:
        wanted: the manifest of a store that this run alone would make. ids: its samples, ascending.

    Raises:
        ManifestMismatchError: the store there is of another run, and cannot grow into this one.
        InputError: the run names a teacher twice.
    """
    _check_distinct(wanted.teachers)
    if not path.exists():
        return Growth(None, wanted, tuple(range(len(wanted.teachers))), segment_order(wanted.views, ids))
    store = LabelStore.open(path)
    known = store.manifest
    # Units stay as they were cut: those that a larger run would choose may be others.
    check_same(str(path), known.shared_dict(), replace(wanted, unit=known.unit).shared_dict())
    _check_views(store, wanted.num_views)
    new_ids = segment_order(wanted.views, _new_samples(store, ids))
    teachers, numbers = list(known.teachers), []
    for info in wanted.teachers:
        numbers.append(_number(path, teachers, info))
        if numbers[-1] == len(teachers):
            teachers.append(info)
    segments = known.samples + ((Segment(len(new_ids), ids_digest(new_ids)),) if len(new_ids) else ())
    manifest = replace(known, num_views=wanted.num_views, samples=segments, teachers=tuple(teachers))
    manifest.validate()
    return Growth(store, manifest, tuple(numbers), new_ids)


@contextmanager
def grown_store(
    path: Path, wanted: Manifest, ids: NDArray[np.int64], class_names: Sequence[str] | None, shared: bool = False
) -> Iterator[Growth]:
    """Make the store of a run, or grow the one that is there; hold it for writing until the block ends.

    Args:
        shared: once it has grown, let other ranks hold it as well: ``writing(path, shared=True)``.

    Yields:
        The growth that is done: its ``store`` has its ``manifest``.

    Raises:
        StoreError: another process is writing to the store. And what :func:`plan_growth` raises.
    """
    if not path.exists():
        plan_growth(path, wanted, ids)
        LabelStore.create(path, wanted, [segment_order(wanted.views, ids)], class_names)
    with writing(path) as lock:
        growth = plan_growth(path, wanted, ids)
        assert growth.store is not None
        sweep(path)
        if growth.manifest != growth.store.manifest:
            growth = replace(growth, store=growth.store.grow(growth.manifest, growth.new_ids))
        if shared:
            lock.share()
        yield growth


def _check_distinct(teachers: Sequence[TeacherInfo]) -> None:
    seen: list[TeacherInfo] = []
    for info in teachers:
        if any(info.identity() == other.identity() for other in seen):
            raise InputError(f"teacher {info.name} is given twice, or under two names; give each teacher once")
        seen.append(info)


def _check_views(store: LabelStore, views: int) -> None:
    if views < store.num_views:
        raise ManifestMismatchError(
            f"{store.path} is a store of {store.num_views} views, this run asks for {views}; ask for "
            f"{store.num_views} or more, or choose another path"
        )


def _new_samples(store: LabelStore, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    # Masks: np.setdiff1d took seconds for a million ids.
    has, wants = (np.zeros(store.manifest.dataset.num_samples, np.bool_) for _ in range(2))
    has[store.ids], wants[ids] = True, True
    missing = np.flatnonzero(has & ~wants)
    if len(missing):
        raise ManifestMismatchError(
            f"{store.path} labels {len(store.ids)} samples, and this run leaves out {len(missing)} of them, for "
            f"example sample {missing[0]}; a store grows only to samples that include its own: ask for these too, or "
            "choose another path"
        )
    return np.flatnonzero(wants & ~has)


def _number(path: Path, teachers: Sequence[TeacherInfo], info: TeacherInfo) -> int:
    """The teacher's number among those of a store, or the next one where it is not there."""
    for number, known in enumerate(teachers):
        if known.identity() == info.identity():
            return number
    for number, known in enumerate(teachers):
        # Far more often a flag that was forgotten than a wish to label everything a second time.
        if known.sha256 == info.sha256:
            check_same(str(path), known.identity(), info.identity(), f"teachers[{number}]")
    return len(teachers)
