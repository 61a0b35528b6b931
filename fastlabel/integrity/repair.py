"""repair_store: label again what is damaged, rebuild the metadata that can be rebuilt, and touch nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import ManifestMismatchError, StoreError
from fastlabel.images.device_loader import make_image_loader
from fastlabel.integrity.rebuild import check_manifests, put_file, rebuilt_files
from fastlabel.integrity.recompute import dataset_difference
from fastlabel.integrity.units import UnitState, check_units
from fastlabel.integrity.verify import verify_store
from fastlabel.labelling.cache import decode_batch_size
from fastlabel.labelling.forward import TeacherForward
from fastlabel.labelling.unit import label_units
from fastlabel.store.finding import Finding, Range
from fastlabel.store.layout import node_text
from fastlabel.store.metadata import read_metadata
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress, record_node, sweep, writing
from fastlabel.system.devices import pick_device
from fastlabel.system.progress import Progress
from fastlabel.system.signals import StopRequest
from fastlabel.teachers.recorded import find_teachers
from fastlabel.teachers.spec import AnyTeacher
from fastlabel.teachers.teacher import Teacher


@dataclass(frozen=True)
class RepairedUnit:
    """A unit that was labelled again.

    Attributes:
        same_labels: they are those of its old record; None where that was lost, or nothing was done yet.
    """

    teacher: int
    unit: str
    views: Range
    rows: Range
    same_labels: bool | None


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, or with ``dry_run`` would do.

    Attributes:
        files: metadata and records that were written anew.
        left: errors that are still there.
    """

    store: str
    files: tuple[str, ...]
    units: tuple[RepairedUnit, ...]
    left: tuple[Finding, ...]
    seconds: float
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def repair_store(
    path: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    teachers: Sequence[AnyTeacher] = (),
    *,
    dry_run: bool = False,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    stop: StopRequest | None = None,
    progress: bool = False,
) -> RepairReport:
    """Label the damaged units of a store again, to the same bytes, and rebuild its damaged metadata.

    A unit is labelled again where a shard or the record is damaged or lost; one without record and shards is not
    there yet, and left to ``cache_labels``. Sound units stay as they are. Run again, it goes on where it was stopped.

    Args:
        teachers: of the store, for the units that are damaged; for an ensemble all its networks.
        device: that the teachers run on; default the kind that they labelled on. Units of teachers that labelled on
            another kind are left: their labels would differ in last bits.

    Raises:
        StoreError: there is no store, another process writes to it, or a manifest is lost; says what to do.
        ManifestMismatchError: the dataset, a teacher or the device is another than the store's.
        Interrupted: ``stop`` was requested; while a unit is labelled, a first signal waits for its end.
    """
    path, beton = Path(path), Beton.open(beton)
    if not path.is_dir():
        raise StoreError(f"no label store at {path}; make one with `fastlabel cache-labels`")
    with nullcontext() if dry_run else writing(path):
        repair = _Repair(path, beton, dry_run, num_workers, progress)
        repair.metadata()
        repair.records()
        repair.units(teachers, device, stop)
        return repair.report()


class _Repair:
    def __init__(self, path: Path, beton: Beton, dry_run: bool, num_workers: int, progress: bool) -> None:
        self._path, self._beton, self._dry_run = path, beton, dry_run
        self._num_workers, self._progress, self._started = num_workers, progress, time.monotonic()
        self._metadata = read_metadata(path)
        check_manifests(self._metadata)
        difference = dataset_difference(self._metadata, beton, progress)
        if difference is not None:
            raise ManifestMismatchError(f"{beton.path} {difference}; give the dataset of {path}")
        self._files: dict[str, bytes] = {}
        self._units: list[RepairedUnit] = []
        self._states: list[UnitState] = []
        self._left: list[Finding] = []

    def metadata(self) -> None:
        """Rebuild what can be rebuilt, so that units can be read and written."""
        self._files = rebuilt_files(self._metadata, self._beton)
        self._left = [finding for finding in self._metadata.errors if finding.file not in self._files]
        if not self._dry_run:
            sweep(self._path)
            for file, content in self._files.items():
                put_file(self._path, file, content)
            self._metadata = read_metadata(self._path)
        self._states = check_units(self._metadata, self._num_workers, self._progress)

    def records(self) -> None:
        """Write records anew that say the right thing in other bytes."""
        for state in self._states:
            if state.record is not None and not state.sound and not state.ahead and _only_record(state):
                content = node_text(record_node(state.record)).encode()
                self._files[state.record_file] = content
                if not self._dry_run:
                    put_file(self._path, state.record_file, content)

    def units(self, sources: Sequence[AnyTeacher], device: str | torch.device | None, stop: StopRequest | None) -> None:
        """Label damaged units again; leave those whose teacher is not at hand, or labelled on another device."""
        self._left += [finding for state in self._states if state.ahead for finding in state.findings]
        bad = [state for state in self._states if _needs_labels(state) and state.record_file not in self._files]
        if not bad or not sources:
            self._left += [finding for state in bad for finding in state.findings]
            return
        metadata, place = self._metadata, self._device(bad, device)
        assert metadata.manifest is not None
        found = find_teachers(metadata.manifest, sources, place, str(self._path))
        readable = self._dry_run or not any(finding.level == "error" for finding in metadata.findings)
        usable = {number for number in found if self._recorded_device(number) == place.type} if readable else set()
        todo = [state for state in bad if state.teacher in usable]
        self._left += [finding for state in bad if state not in todo for finding in state.findings]
        if self._dry_run or not todo:
            self._units = [_repaired(state, None) for state in todo]
            return
        self._label(todo, found, place, stop)

    def _recorded_device(self, teacher: int) -> str:
        """The kind of device that a teacher, by its number in the store, labelled on."""
        manifest = self._metadata.manifest
        assert manifest is not None
        return manifest.teachers[self._metadata.numbers.index(teacher)].device

    def _device(self, bad: list[UnitState], device: str | torch.device | None) -> torch.device:
        recorded = {self._recorded_device(state.teacher) for state in bad}
        place = pick_device(device or min(recorded))
        if place.type not in recorded:
            raise ManifestMismatchError(
                f"damaged units of {self._path} were labelled on {' and '.join(sorted(recorded))}, this run takes "
                f"{place.type}: labels would differ in last bits; repair them on the kind of device that made them"
            )
        return place

    def _label(
        self, todo: list[UnitState], found: dict[int, Teacher], device: torch.device, stop: StopRequest | None
    ) -> None:
        store = LabelStore.open(self._path)
        infos, policy = store.manifest.teachers, store.views
        images = make_image_loader(self._beton, policy, decode_batch_size(policy, device), self._num_workers, device)
        images.partners = store.partners
        forwards = {number: TeacherForward(found[number], infos[number], device) for number in found}
        crops = sum(state.unit.shape[0] * state.unit.shape[1] for state in todo)
        places = [(state.unit, [state.teacher]) for state in todo]
        patience = nullcontext() if stop is None else stop.deferred()
        with patience, Progress("repair", crops, "crops", shown=self._progress) as bar:
            # Writing a unit discards its record first: it is not committed until it is whole.
            done = label_units(store, places, images, forwards, bar.update, stop)
            for state, _ in zip(todo, done, strict=True):
                record = store.record(state.unit, state.teacher)
                same = None if state.record is None or record is None else record.labels == state.record.labels
                self._units.append(_repaired(state, same))

    def report(self) -> RepairReport:
        """What was done; what is left is looked for in the whole store."""
        left = tuple(self._left)
        if not self._dry_run:
            left = verify_store(self._path, num_workers=self._num_workers, progress=self._progress).errors
        seconds = time.monotonic() - self._started
        return RepairReport(str(self._path), tuple(self._files), tuple(self._units), left, seconds, self._dry_run)


def _needs_labels(state: UnitState) -> bool:
    """A shard or the record is damaged; or there are shards whose record is lost, or was never written.

    Not where the record is ahead of the store: labelling what the store knows of would lose the views beyond.
    """
    return not state.ahead and (not state.sound if state.committed else bool(state.findings))


def _only_record(state: UnitState) -> bool:
    return bool(state.findings) and all(finding.file == state.record_file for finding in state.findings)


def _repaired(state: UnitState, same_labels: bool | None) -> RepairedUnit:
    unit: UnitAddress = state.unit
    views, rows = (unit.view_start, unit.view_stop), (unit.sample_start, unit.sample_stop)
    return RepairedUnit(state.teacher, unit.key, views, rows, same_labels)
