"""Metadata of a store, rebuilt byte for byte as it was: from the manifest, and from the dataset's labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import ids_digest
from fastlabel.errors import InputError, StoreError
from fastlabel.sampling import images_per_class
from fastlabel.store.layout import is_manifest, node_file, node_text, segment_file
from fastlabel.store.metadata import Metadata
from fastlabel.store.store import empty_store
from fastlabel.store.units import make_way
from fastlabel.system.atomic_files import fsync, write_file
from fastlabel.views import segment_order


def check_manifests(metadata: Metadata) -> None:
    """StoreError, with what to do, unless the manifests of the store and of all its teachers can be read."""
    lost = [finding for finding in metadata.findings if finding.level == "error" and is_manifest(finding.file)]
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
    damaged = {finding.file for finding in metadata.errors}
    if not damaged:
        return {}
    segments = _segments(metadata, beton)
    lost = {segment_file(number) for number, ids in enumerate(segments) if ids is None}
    ids = [np.zeros(0, np.int64) if segment is None else segment for segment in segments]
    whole = empty_store(metadata.manifest, ids, metadata.class_names)
    # A manifest is written as it was read: what it says is known from it alone.
    read = {node_file(folder): node_text(node).encode() for folder, node in metadata.nodes.items()}
    whole |= {file: content for file, content in read.items() if is_manifest(file)}
    return {file: whole[file] for file in damaged & whole.keys() - lost}


def put_file(root: Path, file: str, content: bytes) -> None:
    """Put a file into a store, durably."""
    path = root / file
    make_way(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    for folder in path.relative_to(root).parents:
        fsync(root / folder)


def _segments(metadata: Metadata, beton: Beton) -> list[NDArray[np.int64] | None]:
    """The sample ids of each segment: as stored, or as one of the usual choices of samples that has their digest."""
    assert metadata.manifest is not None
    found: list[NDArray[np.int64] | None] = []
    for number, (stored, segment) in enumerate(zip(metadata.segments, metadata.manifest.samples, strict=True)):
        others = [ids for at, ids in enumerate(found) if at != number and ids is not None]
        before = np.concatenate([np.zeros(0, np.int64), *others])
        views = metadata.manifest.views
        candidates = (segment_order(views, np.setdiff1d(choice, before)) for choice in _choices(beton, views.seed))
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
