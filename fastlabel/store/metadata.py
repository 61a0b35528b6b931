"""The one reader of a store's metadata: every zarr.json and the sample ids, byte for byte.

`LabelStore.open` raises the first error that is found here, `verify` reports all, `repair` rebuilds what it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.digests import canonical_json, first_difference, ids_digest
from fastlabel.errors import FastlabelError, StoreError
from fastlabel.labels.basis import DTYPE as BASIS_DTYPE
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store import layout
from fastlabel.store.finding import Finding, without_path
from fastlabel.store.layout import (
    ATTRIBUTE,
    CLASS_NAMES,
    NODE,
    SAMPLES,
    TEACHER_NUMBER,
    Node,
    is_manifest,
    node_file,
    segment_file,
)
from fastlabel.store.manifest import MAX_TEACHERS, Manifest, TeacherInfo, check_version
from fastlabel.store.shard import DamagedFileError, decode_chunk, most_chunk_bytes
from fastlabel.store.units import ALL_ARRAYS, UnitAddress
from fastlabel.system.regular_files import read_regular
from fastlabel.views import STORED, Partners, StoredCrops, segment_order


@dataclass
class Metadata:
    """What could be read of a store's metadata, and what was found on the way.

    Attributes:
        nodes: by folder, every node that could be read, but for records.
        manifest: with the teachers that could be read; None where that is none.
        numbers: the number in the store of each of those teachers.
        unread: the numbers of the others.
        segments: sample ids of each segment, None where they are damaged.
        known: paths within the store of all files that belong there.
        findings: what is wrong, and notes.
        minor: errors on which no label depends: all else can be read nevertheless.
    """

    path: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    manifest: Manifest | None = None
    numbers: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()
    segments: list[NDArray[np.int64] | None] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    minor: list[Finding] = field(default_factory=list)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = self.nodes[""]["attributes"].get(CLASS_NAMES)
        return tuple(map(str, names)) if isinstance(names, list) else None

    @cached_property
    def partners(self) -> Partners | None:
        """Who is mixed with whom; None where no view is mixed, or the ids of a segment are damaged."""
        held = [ids for ids in self.segments if ids is not None]
        if self.manifest is None or len(held) < len(self.segments):
            return None
        return Partners.of(self.manifest.views, held, self.manifest.dataset.num_samples)

    @property
    def errors(self) -> list[Finding]:
        """All that is wrong, minor errors included."""
        return [*(finding for finding in self.findings if finding.level == "error"), *self.minor]

    def unit_ids(self, unit: UnitAddress) -> NDArray[np.int64] | None:
        """Sample ids of a unit, or None where they are damaged."""
        assert self.manifest is not None
        for rows, ids in zip(self.manifest.segments, self.segments, strict=True):
            if unit.sample_start in rows:
                return None if ids is None else ids[unit.sample_start - rows.start : unit.sample_stop - rows.start]
        return None

    def unit_ids_digest(self, unit: UnitAddress) -> str | None:
        """The digest of a unit's sample ids, or None where they are damaged."""
        ids = self.unit_ids(unit)
        return None if ids is None else ids_digest(ids)

    def check(self) -> Manifest:
        """The manifest of a store whose metadata is whole. StoreError that names the first file that is not."""
        first = next((finding for finding in self.findings if finding.level == "error"), None)
        if first is None and self.manifest is not None:
            return self.manifest
        assert first is not None  # why there is no manifest
        if "" not in self.nodes:
            raise StoreError(f"{self.path} is not a fastlabel label store: its {NODE} {first.problem}")
        is_lasting = is_manifest(first.file) or layout.is_basis(first.file)
        remedy = COPY if is_lasting else f"; `fastlabel repair {self.path} DATA.beton` rebuilds what it can"
        raise StoreError(f"{self.path}: {first.file}: {first.problem}{first.place}{remedy}")

    def error(self, file: str, problem: str, teacher: int | None = None) -> None:
        self.findings.append(Finding("error", file, problem, teacher))

    @contextmanager
    def reporting(self, file: str, teacher: int | None = None) -> Iterator[None]:
        """Errors of the block become findings about a file."""
        try:
            yield
        except (FastlabelError, OSError) as error:
            self.error(file, without_path(error, self.path / file), teacher)

    def read(self, folder: str, teacher: int | None = None) -> None:
        """Read the node of a folder into ``nodes``, once."""
        file = node_file(folder)
        if file in self.known:
            return
        self.known.add(file)
        with self.reporting(file, teacher):
            self.nodes[folder] = node = layout.read_node(self.path / folder)
            if not is_spelled(self.path / file, node):
                self.minor.append(Finding("error", file, SPELLING, teacher))


COPY = "; put that file back from a copy of the store, or label into another path"
SPELLING = "is damaged: its values are whole, but not spelled as fastlabel writes them"


def is_spelled(path: Path, node: Node) -> bool:
    """Whether a node's file says it in the very bytes that fastlabel writes."""
    return read_regular(path, layout.MAX_NODE_BYTES) == layout.node_text(node).encode()


def read_metadata(path: Path) -> Metadata:
    """Read and check all metadata of a store, but for the records of units."""
    found = Metadata(path)
    found.read("")
    if "" in found.nodes:
        with found.reporting(NODE):
            _read_manifests(found)
    if found.manifest is not None:
        _check_nodes(found, found.manifest)
        found.manifest = _with_bases(found, found.manifest)
        found.manifest = _with_crops(found, found.manifest)
        found.segments = [_read_segment(found, number, found.manifest) for number in range(len(found.manifest.samples))]
        _check_ids(found, found.manifest)
    return found


def _read_manifests(found: Metadata) -> None:
    data = found.nodes[""]["attributes"].get(ATTRIBUTE)
    if not isinstance(data, dict):
        raise StoreError(f"has no attribute {ATTRIBUTE!r}: this is no label store")
    check_version(data)
    count = data.get("num_teachers")
    if type(count) is not int or not 1 <= count <= MAX_TEACHERS:
        raise StoreError(f"names {count!r} teachers, expected 1 to {MAX_TEACHERS:,}")
    infos = {}
    for number in range(count):
        found.read(str(number), number)
        if str(number) in found.nodes:
            with found.reporting(node_file(str(number)), number):
                infos[number] = _teacher_info(found.nodes[str(number)], number)
    found.unread = tuple(number for number in range(count) if number not in infos)
    if infos:
        found.manifest = Manifest.from_dict(data | {"num_teachers": len(infos), "teachers": list(infos.values())})
        found.numbers = tuple(infos)


def _teacher_info(node: Node, number: int) -> Any:
    """The manifest of a teacher of that number. StoreError unless all of it is known to this version."""
    data, place = node["attributes"].get(ATTRIBUTE), node["attributes"].get(TEACHER_NUMBER, number)
    if type(place) is not int or place != number:
        raise StoreError(f"is the folder of teacher {place!r}; folders of the store's teachers were moved or swapped")
    try:
        known = TeacherInfo.from_dict(data).to_dict()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise StoreError(f"is not the manifest of a teacher: {type(error).__name__}: {error}") from error
    if canonical_json(data) != canonical_json(known):
        where, has, needs = first_difference(data, known) or ("one value", "?", "?")
        raise StoreError(f"has {where} = {has}; this version of fastlabel knows {needs} there")
    return data


def _check_nodes(found: Metadata, manifest: Manifest) -> None:
    """Compare every node with the one that this version writes for the manifest."""
    names = found.class_names
    if names is not None and len(names) != manifest.dataset.num_classes:
        problem = f"has {len(names)} class names for {manifest.dataset.num_classes} classes"
        found.minor.append(Finding("error", NODE, problem))
    for place, wanted in layout.store_nodes(manifest, names).items():
        top, _, rest = place.partition("/")
        teacher = found.numbers[int(top)] if top.isdecimal() else None
        folder = place if teacher is None else f"{teacher}/{rest}".rstrip("/")
        found.read(folder, teacher)
        if folder in found.nodes:
            _check_node(found, folder, wanted, teacher, is_label_array=rest in ALL_ARRAYS)


def _check_node(found: Metadata, folder: str, wanted: Node, teacher: int | None, is_label_array: bool) -> None:
    one, other = layout.bare_node(found.nodes[folder]), layout.bare_node(wanted)
    one["attributes"].pop(TEACHER_NUMBER, None)  # compared when the manifest was read, and stores of before lack it
    other["attributes"].pop(TEACHER_NUMBER, None)
    shape, least = one.get("shape"), other.get("shape")
    if is_label_array and shape != least and least is not None and _covers(shape, least):
        problem = f"has the shape {shape}, of which the manifest uses {least}: a run that was to grow it was cut short"
        found.findings.append(Finding("note", node_file(folder), problem, teacher))
        one["shape"] = least
    if folder == "":
        # The manifest at hand counts only the teachers that could be read.
        other["attributes"][ATTRIBUTE] = one["attributes"][ATTRIBUTE]
    if canonical_json(one) != canonical_json(other):
        where, has, needs = first_difference(one, other) or ("one value", "?", "?")
        found.error(node_file(folder), f"has {where} = {has}; this version of fastlabel writes {needs}", teacher)


def _covers(shape: Any, least: list[int]) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(least)
        and all(type(has) is int and has >= needs for has, needs in zip(shape, least, strict=True))
    )


@dataclass(frozen=True)
class CropReader:
    """Reads a view's table of stored crops out of a store. StoreError that names the file where it cannot."""

    path: Path
    shape: tuple[int, int]

    def __call__(self, view: int) -> NDArray[np.int32]:
        file = self.path / layout.crops_file(view)
        most = most_chunk_bytes(self.shape, layout.CROPS_DTYPE)
        try:
            data = np.frombuffer(read_regular(file, most), np.uint8)
            table: NDArray[np.int32] = decode_chunk(data, self.shape, layout.CROPS_DTYPE)
        except (OSError, DamagedFileError) as error:
            raise StoreError(f"{file}: {without_path(error, file)}") from error
        return table


def _with_crops(found: Metadata, manifest: Manifest) -> Manifest:
    """The manifest whose views, where they are stored, read their tables out of the store."""
    views, (samples, columns) = manifest.views, layout.crops_shape(manifest)
    if views.name != STORED:
        return manifest
    found.known.update(layout.crops_file(view) for view in range(len(views.digests)))
    crops = StoredCrops(CropReader(found.path, (samples, columns)), views.digests, columns)
    return replace(manifest, views=views.with_crops(crops))


def _with_bases(found: Metadata, manifest: Manifest) -> Manifest:
    """The manifest with the bases of its teachers' labels, as far as they are whole."""
    teachers = []
    for number, info in zip(found.numbers, manifest.teachers, strict=True):
        codec = info.codec
        if isinstance(codec, TransformCodec):
            file = layout.basis_file(number)
            found.known.add(file)
            with found.reporting(file, number):
                # Labels of a basis that cannot be read are no labels.
                codec = codec.with_basis(_read_basis(found.path / file, codec))
        teachers.append(replace(info, codec=codec))
    return replace(manifest, teachers=tuple(teachers))


def _read_basis(path: Path, codec: TransformCodec) -> TransformBasis:
    shape = layout.basis_shape(codec)
    data = np.frombuffer(read_regular(path, most_chunk_bytes(shape, BASIS_DTYPE)), np.uint8)
    return TransformBasis(torch.from_numpy(decode_chunk(data, shape, BASIS_DTYPE)))


def _read_segment(found: Metadata, number: int, manifest: Manifest) -> NDArray[np.int64] | None:
    file, segment = segment_file(number), manifest.samples[number]
    found.known.add(file)
    shape, dtype = (segment.count,), np.dtype("<i8")
    try:
        data = np.frombuffer(read_regular(found.path / file, most_chunk_bytes(shape, dtype)), np.uint8)
        ids: NDArray[np.int64] = decode_chunk(data, shape, dtype)
        if ids_digest(ids) != segment.digest:
            raise DamagedFileError("its sample ids do not have the digest that the manifest gives")
        in_order = segment_order(manifest.views, ids)
        if (ids != in_order).any() or (np.diff(np.sort(ids)) == 0).any():
            raise DamagedFileError("its sample ids are not in their order, each once")
    except (OSError, DamagedFileError) as error:
        found.error(file, without_path(error, found.path / file))
        return None
    return ids


def _check_ids(found: Metadata, manifest: Manifest) -> None:
    held = [ids for ids in found.segments if ids is not None]
    ids = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    if len(ids) and ((ids[1:] == ids[:-1]).any() or ids[0] < 0 or ids[-1] >= manifest.dataset.num_samples):
        found.error(SAMPLES, f"sample ids must be 0 to {manifest.dataset.num_samples - 1}, each in one segment")
