"""verify_store: every file, record and digest of a store, and on demand its dataset and its teachers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fastlabel.errors import InputError, StoreError
from fastlabel.integrity.report import Recomputed, VerifyReport
from fastlabel.integrity.units import UnitState, check_units
from fastlabel.store.finding import Finding
from fastlabel.store.layout import NODE, UNITS, crops_file
from fastlabel.store.metadata import Metadata, read_metadata
from fastlabel.store.units import addresses, count_units
from fastlabel.system.atomic_files import PARTIAL

if TYPE_CHECKING:  # pixels and teachers load when they are looked at
    import torch

    from fastlabel.dataset.beton import Beton
    from fastlabel.teachers.spec import AnyTeacher


def verify_store(
    path: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str] | None = None,
    teachers: Sequence[AnyTeacher] = (),
    *,
    samples: int = 256,
    seed: int = 0,
    device: str | torch.device | None = None,
    tolerate_rounding: bool = False,
    num_workers: int = 0,
    progress: bool = False,
) -> VerifyReport:
    """Check every file, record and digest of a store; change nothing.

    Args:
        beton: also compare this dataset file with the one that was labelled, and all crop boxes.
        teachers: also make labels again from the pixels of ``beton`` by these teachers of the store (all networks of
            one that is an ensemble), and compare.
        samples: at least so many labels of each teacher, rounded up to whole forward batches chosen by ``seed``.
        device: that the teachers run on; default CUDA when there is one.
        tolerate_rounding: accept labels that differ by rounding, as always where a teacher labelled on another kind
            of device.
        num_workers: threads; 0 takes all cores.

    Raises:
        StoreError: there is no folder at that path. ManifestMismatchError: a teacher is none of the store's.
        InputError, DatasetError, TeacherError, ImageDecodeError: the dataset or a teacher cannot be used.
    """
    path, started = Path(path), time.monotonic()
    if not path.is_dir():
        raise StoreError(f"no label store at {path}; make one with `fastlabel cache-labels`")
    if teachers and beton is None:
        raise InputError("labels are recomputed from pixels: give the dataset file too")
    metadata = read_metadata(path)
    units = check_units(metadata, num_workers, progress)
    findings = [*metadata.findings, *metadata.minor, *(finding for state in units for finding in state.findings)]
    known = metadata.known.union(*({state.record_file, *state.shard_files} for state in units))
    findings += _stored_crops(metadata)
    files, strays = _walk(path, known, metadata)
    findings += [*_uncommitted(metadata, units), *strays]
    recomputed = Recomputed()
    if beton is not None:
        from fastlabel.dataset.beton import Beton
        from fastlabel.integrity.recompute import check_dataset, check_labels
        from fastlabel.system.devices import pick_device

        data = Beton.open(beton)
        if metadata.manifest is not None:
            findings += check_dataset(metadata, units, data, progress)
        if teachers and metadata.manifest is not None:
            place = pick_device(device or "auto")
            options = samples, seed, place, tolerate_rounding, progress
            recomputed = check_labels(metadata, units, data, teachers, *options)
    findings += recomputed.findings
    return VerifyReport(
        store=str(path),
        findings=tuple(findings),
        units=count_units(metadata.manifest) * len(metadata.numbers) if metadata.manifest else 0,
        units_committed=sum(state.committed for state in units),
        units_sound=sum(state.sound for state in units),
        files=len(files),
        bytes=sum(files.values()),
        dataset_checked=beton is not None and metadata.manifest is not None,
        labels_recomputed=recomputed.labels,
        labels_rounded=recomputed.rounded,
        seconds=time.monotonic() - started,
    )


def _stored_crops(metadata: Metadata) -> list[Finding]:
    """One error for each view whose table of stored crops is lost or damaged."""
    crops = None if metadata.manifest is None else metadata.manifest.views.crops
    findings = []
    for view in range(0 if crops is None else len(crops.digests)):
        file = crops_file(view)
        try:
            assert crops is not None
            crops.view(view)
        except StoreError as error:
            problem = f"{str(error).removeprefix(f'{metadata.path / file}: ')}; import the labels again"
            findings.append(Finding("error", file, problem))
    return findings


def _uncommitted(metadata: Metadata, units: list[UnitState]) -> list[Finding]:
    """One note for each teacher that has not labelled all."""
    if metadata.manifest is None:
        return []
    findings, total = [], count_units(metadata.manifest)
    for teacher in metadata.numbers:
        committed = {state.unit for state in units if state.teacher == teacher and state.committed}
        missing = total - len(committed)
        if missing:
            lacking = (unit.key for unit in addresses(metadata.manifest) if unit not in committed)
            shown = ", ".join(islice(lacking, 8)) + (", ..." if missing > 8 else "")
            problem = f"{missing} of {total} units are not committed ({shown}); `fastlabel cache-labels` goes on"
            findings.append(Finding("note", f"{teacher}/{UNITS}", problem, teacher))
    return findings


def _walk(root: Path, known: set[str], metadata: Metadata) -> tuple[dict[str, int], list[Finding]]:
    """The size of every file of a store, and findings about those that do not belong there."""
    files: dict[str, int] = {}
    findings: list[Finding] = []

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        findings.append(Finding("error", _printable(where), f"cannot be listed: {error.strerror}"))

    for folder, _, names in os.walk(root, onerror=unreadable):
        for name in names:
            path = Path(folder, name)
            files[str(path.relative_to(root))] = path.lstat().st_size
    # Below a manifest that cannot be read nobody knows what belongs there.
    unread = {str(number) for number in metadata.unread}
    for file in sorted(set(files) - known) if metadata.manifest is not None else ():
        if file.partition("/")[0] not in unread:
            findings.append(_stray(file))
    return files, findings


def _stray(file: str) -> Finding:
    parts = Path(file).parts
    if any(part.endswith(PARTIAL) for part in parts):
        return Finding("note", _printable(file), "was left by a writer that was killed, or is one's at work")
    if len(parts) == 4 and parts[1] == UNITS and parts[3] == NODE:
        problem = "is the record of a unit that the manifest does not have: is the store's zarr.json an older one?"
        return Finding("error", _printable(file), problem)
    return Finding("note", _printable(file), "is no part of the store")


def _printable(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape", "backslashreplace").decode("ascii")
