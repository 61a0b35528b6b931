"""Metadata of a store, rebuilt byte for byte as it was: from the manifest, and from the dataset's labels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import ids_digest
from fastlabel.errors import InputError, StoreError
from fastlabel.integrity.metadata import Metadata, node_file
from fastlabel.sampling import images_per_class
from fastlabel.store import layout as nodes
from fastlabel.store.layout import NODE
from fastlabel.store.store import LabelStore
from fastlabel.system.atomic_files import fsync, write_file


def check_manifests(metadata: Metadata) -> None:
    """StoreError, with what to do, unless the manifests of the store and of all its teachers can be read."""
    lost = [finding for finding in metadata.findings if finding.level == "error" and _is_manifest(finding.file)]
    # What is only spelled otherwise was read all the same.
    lost = [
        finding for finding in lost if metadata.manifest is None or finding.teacher not in (None, *metadata.numbers)
    ]
    if lost:
        raise StoreError(
            f"{metadata.path}: {lost[0].file} {lost[0].problem}. It alone says what the labels "
            "belong to: put that file back from a copy of the store, or label into another path"
        )


def rebuilt_files(metadata: Metadata, beton: Beton) -> dict[str, bytes]:
    """The content, by path, of all damaged metadata files that can be rebuilt."""
    assert metadata.manifest is not None
    damaged = {finding.file for finding in metadata.findings if finding.level == "error"}
    if not damaged:
        return {}
    found = {
        node_file(folder): nodes.node_text(node).encode()
        for folder, node in metadata.nodes.items()
        if node_file(folder) in damaged and _is_manifest(node_file(folder))
    }
    segments = _segments(metadata, beton)
    with tempfile.TemporaryDirectory(prefix="fastlabel-") as folder:
        ids = [np.zeros(one.count, np.int64) for one in metadata.manifest.samples]
        ids = [zeros if segment is None else segment for zeros, segment in zip(ids, segments, strict=True)]
        LabelStore.create_at(Path(folder), metadata.manifest, ids, metadata.class_names)
        for file in damaged:
            path = Path(folder, file)
            if path.is_file() and not _is_manifest(file) and not _is_lost(file, segments):
                found[file] = path.read_bytes()
    return found


def put_file(root: Path, file: str, content: bytes) -> None:
    """Put a file into a store, durably."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    for folder in path.relative_to(root).parents:
        fsync(root / folder)


def _is_manifest(file: str) -> bool:
    return file == NODE or (file.endswith(f"/{NODE}") and file.removesuffix(f"/{NODE}").isdecimal())


def _is_lost(file: str, segments: list[NDArray[np.int64] | None]) -> bool:
    """Whether a file holds sample ids that nobody knows any more."""
    parts = file.split("/")
    return parts[0] == nodes.SAMPLES and parts[2:3] == ["c"] and segments[int(parts[1])] is None


def _segments(metadata: Metadata, beton: Beton) -> list[NDArray[np.int64] | None]:
    """The sample ids of each segment: as stored, or as one of the usual choices of samples that has their digest."""
    assert metadata.manifest is not None
    found: list[NDArray[np.int64] | None] = []
    for number, (stored, segment) in enumerate(zip(metadata.segments, metadata.manifest.samples, strict=True)):
        others = [ids for at, ids in enumerate(found) if at != number and ids is not None]
        before = np.concatenate([np.zeros(0, np.int64), *others])
        candidates = (np.setdiff1d(choice, before) for choice in _choices(beton, metadata.manifest.views.seed))
        known = (ids for ids in candidates if len(ids) == segment.count and ids_digest(ids) == segment.digest)
        found.append(stored if stored is not None else next(known, None))
    return found


def _choices(beton: Beton, seed: int) -> Iterator[NDArray[np.int64]]:
    """Samples as cache-labels chooses them: all, or so many of each class."""
    yield np.arange(beton.num_samples, dtype=np.int64)
    for count in range(1, int(np.bincount(beton.targets).max()) + 1):
        try:
            yield images_per_class(beton.targets, count, seed)
        except InputError:  # a class has fewer
            return
