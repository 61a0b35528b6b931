"""The dataset and the teachers under `verify`: crop boxes of all units, and labels made again from pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import first_difference
from fastlabel.errors import StoreError
from fastlabel.images.loader import ImageLoader
from fastlabel.integrity.report import Recomputed
from fastlabel.integrity.tolerance import Arrays, Rounding, moved_codes, unequal_rows
from fastlabel.integrity.units import UnitState
from fastlabel.labelling.forward import TeacherForward
from fastlabel.store.finding import Finding, Level, UnitPlace
from fastlabel.store.layout import NODE
from fastlabel.store.metadata import Metadata
from fastlabel.store.unit_reader import UnitReader, other_boxes
from fastlabel.store.units import UnitAddress, record_file
from fastlabel.system.progress import Progress
from fastlabel.teachers.recorded import find_teachers
from fastlabel.teachers.spec import AnyTeacher
from fastlabel.teachers.teacher import Teacher

FEW_CODES = 4


def dataset_difference(metadata: Metadata, beton: Beton, progress: bool) -> str | None:
    """What tells a dataset file from the one that was labelled, as a sentence without the file's name; or None."""
    assert metadata.manifest is not None
    found = {
        "num_samples": beton.num_samples,
        "num_classes": beton.num_classes,
        # What was hashed at another time says nothing about the bytes of today.
        "fingerprint": beton.fingerprint(progress, trust_cache=False),
    }
    difference = first_difference(found, asdict(metadata.manifest.dataset))
    if difference is None:
        return None
    where, has, needs = difference
    return f"is not the dataset that was labelled: its {where} is {has}, the store's {needs}"


def check_dataset(metadata: Metadata, units: Sequence[UnitState], beton: Beton, progress: bool) -> list[Finding]:
    """Compare a dataset file with the one that was labelled: its content, and each crop box."""
    assert metadata.manifest is not None
    difference = dataset_difference(metadata, beton, progress)
    findings = [] if difference is None else [Finding("error", str(beton.path), difference)]
    if beton.num_samples == metadata.manifest.dataset.num_samples:
        findings += _check_boxes(metadata, units, beton)
    names = metadata.class_names
    if names is not None and beton.class_names is not None and names != tuple(beton.class_names):
        pairs = enumerate(zip(names, beton.class_names, strict=False))
        number, (has, needs) = next((pair for pair in pairs if pair[1][0] != pair[1][1]), (len(names), ("?", "?")))
        problem = f"names class {number} {has!r}, the dataset {needs!r}: names were changed, or the classes' order"
        findings.append(Finding("error", NODE, problem))
    return findings


def _check_boxes(metadata: Metadata, units: Sequence[UnitState], beton: Beton) -> Iterator[Finding]:
    manifest = metadata.manifest
    assert manifest is not None
    if manifest.views.mixes and metadata.partners is None:
        return  # ids are damaged, which is found elsewhere: nobody knows the pairs
    by_unit: dict[UnitAddress, list[UnitState]] = {}
    for state in units:
        by_unit.setdefault(state.unit, []).append(state)
    for unit, states in by_unit.items():
        ids = metadata.unit_ids(unit)
        if ids is None:
            continue
        sizes = beton.heights, beton.widths
        records = {state.teacher: state.record for state in states if state.record is not None}
        for teacher, view in other_boxes(manifest.views, metadata.partners, unit, ids, sizes, records):
            problem = "records other crop boxes than this dataset and this version of fastlabel give"
            yield UnitPlace(teacher, unit).error(record_file(teacher, unit), problem, view)


def check_labels(
    metadata: Metadata,
    units: Sequence[UnitState],
    beton: Beton,
    sources: Sequence[AnyTeacher],
    samples: int,
    seed: int,
    device: torch.device,
    tolerate_rounding: bool,
    progress: bool,
) -> Recomputed:
    """Make some labels again, in whole canonical batches that ``seed`` chooses, and compare them with the store's."""
    manifest = metadata.manifest
    assert manifest is not None
    total = Recomputed()
    for index, teacher in find_teachers(manifest, sources, device, str(metadata.path)).items():
        info, number = manifest.teachers[index], metadata.numbers[index]
        mine = [state for state in units if state.teacher == number and state.sound]
        check = _TeacherCheck(metadata, index, beton, teacher, device, tolerate_rounding)
        batches = _choose(mine, info.forward_batch, samples, seed)
        bar = Progress(f"recompute {info.name}", len(batches), "batches", shown=progress)
        for state, view, start in bar.over(batches):
            check.batch(state, view, start)
        done = check.done(number, batches)
        total.labels, total.rounded = total.labels + done.labels, total.rounded + done.rounded
        total.moved += done.moved
        total.findings += done.findings
    return total


def _choose(units: list[UnitState], batch: int, samples: int, seed: int) -> list[tuple[UnitState, int, int]]:
    """(unit, view, first row within the unit) of random canonical batches that hold ``samples`` labels or more."""
    counts = [state.unit.shape[0] * -(-state.unit.shape[1] // batch) for state in units]
    ends = np.cumsum(counts)
    if not len(ends):
        return []
    order, chosen, labels = np.random.default_rng(seed).permutation(int(ends[-1])), [], 0
    for number in order:
        if labels >= samples:
            break
        at = int(np.searchsorted(ends, number, side="right"))
        unit, within = units[at].unit, int(number - (ends[at] - counts[at]))
        per_view = -(-unit.shape[1] // batch)
        start = within % per_view * batch
        chosen.append((units[at], unit.view_start + within // per_view, start))
        labels += min(batch, unit.shape[1] - start)
    # In the order of the store, so that each shard is read once or few times.
    return sorted(chosen, key=lambda one: (one[0].unit.row, one[0].unit.column, *one[1:]))


class _TeacherCheck:
    """One teacher over its batches."""

    def __init__(
        self, metadata: Metadata, index: int, beton: Beton, teacher: Teacher, device: torch.device, tolerate: bool
    ) -> None:
        assert metadata.manifest is not None
        info = metadata.manifest.teachers[index]
        self._metadata, self._reader, self._info = metadata, UnitReader(metadata, index), info
        self._images = ImageLoader(beton, metadata.manifest.views, info.forward_batch)
        self._images.partners = metadata.partners
        self._forward = TeacherForward(teacher, info, device)
        self._rounding, self._tolerate = Rounding.of(info), tolerate or device.type != info.device
        self._found = Recomputed()
        self._codes = 0

    def batch(self, state: UnitState, view: int, start: int) -> None:
        """Compare one canonical batch of a unit."""
        unit_ids = self._metadata.unit_ids(state.unit)
        assert unit_ids is not None  # a unit whose ids are damaged is not sound
        ids = unit_ids[start : start + self._info.forward_batch]
        made, stored = self._made(ids, view), self._stored(state, view, slice(start, start + len(ids)))
        unequal = unequal_rows(made, stored)
        rounded = [row for row in unequal if self._rounding.allows(_row(made, row), _row(stored, row))]
        wrong = np.setdiff1d(unequal, rounded)
        self._found.labels += len(ids)
        self._found.rounded += len(rounded)
        self._found.moved += moved_codes(_row(made, rounded), _row(stored, rounded)) if rounded else 0
        self._codes += made["codes"].size
        place = UnitPlace(state.teacher, state.unit)
        if len(wrong):
            problem = f"{len(wrong)} of {len(ids)} recomputed labels differ, for example that of sample {ids[wrong[0]]}"
            self._found.findings.append(place.error(", ".join(state.shard_files), problem, view))
        if rounded and not self._tolerate:
            problem = (
                f"{len(rounded)} of {len(ids)} recomputed labels differ by rounding: another CPU or GPU, number of "
                "threads or PyTorch made them"
            )
            self._found.findings.append(place.error(", ".join(state.shard_files), problem, view))

    def done(self, teacher: int, batches: list[tuple[UnitState, int, int]]) -> Recomputed:
        """All that was found."""
        share = self._found.moved / max(1, self._codes)
        if self._found.rounded and self._tolerate:
            problem = (
                f"{self._found.rounded} of {self._found.labels} recomputed labels differ by rounding: {share:.3%} of "
                f"their codes moved, at most {self._rounding.share:.0%} may"
            )
            # A few are no statistics.
            too_many = self._found.moved > max(FEW_CODES, self._rounding.share * self._codes)
            level: Level = "error" if too_many else "note"
            self._found.findings.append(Finding(level, str(teacher), problem, teacher))
        if not batches:
            problem = "has no sound unit whose labels could be recomputed"
            self._found.findings.append(Finding("note", str(teacher), problem, teacher))
        return self._found

    def _made(self, ids: NDArray[np.int64], view: int) -> Arrays:
        images = self._images.decode(ids, [view]).images[:, 0]
        stage = torch.zeros((self._info.forward_batch, *images.shape[1:]), dtype=torch.uint8)
        stage[: len(ids)] = images
        labels = self._forward.labels(stage, ids, view)
        return self._info.codec.arrays(labels.to("cpu"))

    def _stored(self, state: UnitState, view: int, rows: slice) -> Arrays:
        def report(file: str, problem: str, view: int | None) -> NoReturn:
            raise StoreError(f"{self._metadata.path}: {file} {problem}: it was sound a moment ago")

        ((_, labels),) = self._reader.labels(state.unit, state.record, range(view, view + 1), report)
        return {name: values[rows] for name, values in labels.items()}


def _row(labels: Arrays, rows: Any) -> Arrays:
    return {name: values[rows] for name, values in labels.items()}
