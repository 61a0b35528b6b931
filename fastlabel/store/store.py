"""LabelStore: a Zarr v3 group of label planes for every teacher and view. docs/format.md is its specification."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray

from fastlabel.digests import ids_digest
from fastlabel.errors import ManifestMismatchError, MissingLabelsError, StoreError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.store import layout as nodes
from fastlabel.store import units as commit
from fastlabel.store.layout import ATTRIBUTE, CLASS_NAMES, SAMPLES, UNITS
from fastlabel.store.manifest import Manifest, check_version
from fastlabel.store.plane import LabelPlane
from fastlabel.store.units import ARRAYS, Record, UnitAddress
from fastlabel.system.arguments import integer, one_of
from fastlabel.system.atomic_files import new_folder
from fastlabel.system.devices import pick_device
from fastlabel.views import ViewPolicy


class LabelStore:
    """Soft labels of N samples under V views, from one or more teachers. Made by ``cache_labels``.

    Open one with :meth:`open`. Reading never changes a store.
    """

    def __init__(self, path: Path, manifest: Manifest, root: zarr.Group) -> None:
        self.path, self.manifest, self._root = path, manifest, root
        self._digests = [manifest.digest(teacher) for teacher in range(len(manifest.teachers))]
        self._arrays = [self._open_arrays(teacher) for teacher in range(len(manifest.teachers))]
        self._samples_digests: dict[int, str] = {}
        self._check_arrays()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> LabelStore:
        """Open a store for reading.

        Raises:
            StoreError: there is no store at that path, it is of an unknown version, or its metadata is damaged.
        """
        one_of("the path of a label store", path, (str, os.PathLike), "a path")
        path = Path(path)
        if not path.exists():
            raise StoreError(f"no label store at {path}; make one with `fastlabel cache-labels`")
        try:
            root = zarr.open_group(path, mode="r")
            data: dict[str, Any] = dict(cast("dict[str, Any]", root.attrs[ATTRIBUTE]))
        except Exception as error:  # zarr raises many kinds for damaged metadata
            raise StoreError(f"{path} is not a fastlabel label store (a Zarr v3 group with its manifest)") from error
        check_version(data)
        nodes.read_node(path)
        data["teachers"] = _read_teachers(path, data.get("num_teachers"))
        return cls(path, Manifest.from_dict(data), root)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        manifest: Manifest,
        segments: Sequence[NDArray[np.int64]],
        class_names: Sequence[str] | None = None,
    ) -> LabelStore:
        """Make an empty store, complete with all metadata or not at all.

        Args:
            segments: the ids of each of the manifest's segments, ascending.

        Raises:
            StoreError: something already exists at that path.
        """
        path = Path(path)
        manifest.validate()
        with new_folder(path) as folder:
            cls.create_at(folder, manifest, segments, class_names)
        return cls.open(path)

    @staticmethod
    def create_at(
        folder: Path, manifest: Manifest, segments: Sequence[NDArray[np.int64]], class_names: Sequence[str] | None
    ) -> None:
        """Make the nodes of an empty store in a folder that is there, neither atomically nor durably."""
        root = zarr.create_group(folder, attributes=nodes.root_attributes(manifest, class_names))
        samples = root.create_group(SAMPLES)
        for number, ids in enumerate(segments):
            nodes.create_segment(samples, str(number), ids)
        for teacher in range(len(manifest.teachers)):
            nodes.create_teacher(root, str(teacher), teacher, manifest)
        nodes.seal(folder)

    def grow(self, manifest: Manifest, new_ids: NDArray[np.int64]) -> LabelStore:
        """Give the store a larger extent: more views, another segment of samples, more teachers; no unit is touched.

        A growth that is cut short leaves the store as it was, with nodes that are larger than its manifest says or
        that it does not name; the next one makes use of the former and replaces the latter.

        Args:
            manifest: of the larger store. new_ids: of the segment that it has more, ascending; else empty.

        Returns:
            The larger store; this object stays a valid view of the smaller one.
        """
        root = zarr.open_group(self.path, mode="r+")
        if len(manifest.samples) > len(self.manifest.samples):
            self._add(f"{SAMPLES}/{len(self.manifest.samples)}", partial(nodes.create_segment, root, ids=new_ids))
        known = len(self.manifest.teachers)
        for teacher in range(known, len(manifest.teachers)):
            self._add(str(teacher), partial(nodes.create_teacher, root, teacher=teacher, manifest=manifest))
        for teacher in range(known):
            for name in ARRAYS:
                nodes.lengthen_array(self.path / str(teacher) / name, manifest)
        nodes.replace_manifest(self.path, manifest)
        return LabelStore.open(self.path)

    def _add(self, name: str, create: Callable[[str], None]) -> None:
        """Put a node into the store that its manifest does not name yet."""
        if any((self.path / name / UNITS).glob("*/zarr.json")):
            raise StoreError(
                f"{self.path} has labels at {self.path / name} that its manifest does not name: its zarr.json is older "
                "than they are; put the newer one back, or move them away"
            )
        with new_folder(self.path / name, replace=True) as folder:
            create(folder.relative_to(self.path).as_posix())
            nodes.seal(folder)

    @property
    def views(self) -> ViewPolicy:
        """The policy that gives each view's crop boxes."""
        return self.manifest.views

    @property
    def num_views(self) -> int:
        return self.manifest.num_views

    @property
    def num_classes(self) -> int:
        return self.manifest.dataset.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = self._root.attrs.get(CLASS_NAMES)
        return tuple(map(str, names)) if isinstance(names, list) else None

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """int64 [N], ascending: the samples that are labelled, by index in the dataset file."""
        return np.flatnonzero(self._labelled(self.segments))

    def unit_ids(self, unit: UnitAddress) -> NDArray[np.int64]:
        """int64 [n], ascending: the samples of a unit, by index in the dataset file, in the order of its rows."""
        for rows, ids in zip(self.manifest.segments, self.segments, strict=True):
            if rows.start <= unit.sample_start < rows.stop:
                return ids[unit.sample_start - rows.start : unit.sample_stop - rows.start]
        raise StoreError(f"{self.path} has no rows {unit.sample_start} to {unit.sample_stop}")

    @cached_property
    def _plane_ids(self) -> NDArray[np.int64]:
        """The sample of each row of a plane, which has the rows in use alone."""
        return np.concatenate(self.segments)

    @cached_property
    def segments(self) -> list[NDArray[np.int64]]:
        """int64, ascending: the samples of each of the manifest's segments, in the order of their rows."""
        segments = [self._read_segment(number) for number in range(len(self.manifest.samples))]
        samples = self.manifest.dataset.num_samples
        inside = all(ids.min() >= 0 and ids.max() < samples for ids in segments)
        if not inside or np.count_nonzero(self._labelled(segments)) != self.manifest.num_labelled:
            raise StoreError(f"{self.path} is damaged: its sample ids repeat, or leave the dataset")
        return segments

    def _labelled(self, segments: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
        """bool [num_samples]: whether a sample of the dataset file is in one of the segments."""
        labelled = np.zeros(self.manifest.dataset.num_samples, np.bool_)
        for ids in segments:
            labelled[ids] = True
        return labelled

    def _read_segment(self, number: int) -> NDArray[np.int64]:
        array = _array(self._root, f"{SAMPLES}/{number}", self.path)
        try:
            ids = np.asarray(array[:], np.int64)
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(f"{self.path} is damaged: its sample ids cannot be read: {error}") from error
        wanted = self.manifest.samples[number]
        if ids_digest(ids) != wanted.digest or len(ids) != wanted.count:
            raise StoreError(f"{self.path} is damaged: its sample ids do not have the digest that its manifest gives")
        return ids

    def _samples_digest(self, unit: UnitAddress) -> str:
        if unit.column not in self._samples_digests:
            self._samples_digests[unit.column] = ids_digest(self.unit_ids(unit))
        return self._samples_digests[unit.column]

    def units(self) -> Iterator[UnitAddress]:
        """The addresses of all units, committed or not."""
        return commit.addresses(self.manifest)

    def holds(self, unit: UnitAddress) -> bool:
        """Whether a unit is one of this store's, committed or not."""
        return unit in self._addresses

    @cached_property
    def _addresses(self) -> frozenset[UnitAddress]:
        return frozenset(self.units())

    def record(self, unit: UnitAddress, teacher: int = 0) -> Record | None:
        """A unit's record, or None where it is not committed."""
        record = commit.read_record(self.path, teacher, unit)
        if record is not None and record.manifest != self._digests[teacher]:
            raise ManifestMismatchError(
                f"{self.path}: unit {unit.key} of teacher {teacher} was made under another manifest than the store's; "
                "its metadata was changed after labelling"
            )
        if record is not None and record.samples != self._samples_digest(unit):
            raise ManifestMismatchError(
                f"{self.path}: unit {unit.key} of teacher {teacher} holds labels of other samples than the store names "
                "there; its sample ids were changed after labelling"
            )
        return record

    def check_shards(self, unit: UnitAddress, teacher: int) -> None:
        """StoreError where a committed unit has lost a file."""
        for name in ARRAYS:
            if not commit.shard_path(self.path, teacher, name, unit).is_file():
                raise StoreError(
                    f"{self.path}: unit {unit.key} of teacher {teacher} has lost its {name}; "
                    f"{self.remedy(unit, teacher)}"
                )

    def remedy(self, unit: UnitAddress, teacher: int) -> str:
        """What to do about a damaged unit, for error messages."""
        return f"`fastlabel repair {self.path} DATA.beton --teacher ...` labels it again"

    def write(
        self, unit: UnitAddress, teacher: int, labels: dict[str, NDArray[Any]], boxes: Sequence[NDArray[np.int32]]
    ) -> None:
        """Write and commit one unit.

        Args:
            labels: "classes" [v, n, K], "codes" uint8 [v, n, K] and "tail" uint16 [v, n, 2] of the unit's v views
                and n samples.
            boxes: int32 [n, 5] for each of its views.
        """
        digests = tuple(commit.labels_digest(*(labels[name][v] for name in ARRAYS)) for v in range(unit.shape[0]))
        place = (unit.view_start, unit.view_stop, unit.sample_start, unit.sample_stop)
        crops = tuple(map(commit.boxes_digest, boxes))
        record = Record(*place, self._digests[teacher], self._samples_digest(unit), digests, crops)
        commit.write_unit(self.path, teacher, unit, labels, record)

    def plane(self, view: int, teacher: int = 0, device: str | torch.device = "cpu") -> LabelPlane:
        """The labels of all samples under one view, from one teacher, checked against their digests.

        Raises:
            MissingLabelsError: no such view or teacher, or a part of the view is not committed.
            StoreError: a committed part is damaged or lost.
        """
        view, device = integer("view", view), pick_device(device)
        return self.planes(range(view, view + 1), teacher, device)[0]

    def planes(self, views: range, teacher: int = 0, device: str | torch.device = "cpu") -> list[LabelPlane]:
        """The planes of consecutive views, each as :meth:`plane` gives it, read at once."""
        records = [self._records_of_view(view, teacher) for view in views]
        rows = slice(0, self.manifest.num_rows)
        arrays = self._read(teacher, slice(views.start, views.stop), rows, f"view {views.start}")
        return [
            self._plane({name: arrays[name][at] for name in ARRAYS}, view, teacher, records[at]).to(device)
            for at, view in enumerate(views)
        ]

    def read_unit(self, unit: UnitAddress, teacher: int) -> dict[str, NDArray[Any]]:
        """The labels of a unit as :meth:`write` takes them, not compared with any digest. StoreError if unreadable."""
        views, rows = slice(unit.view_start, unit.view_stop), slice(unit.sample_start, unit.sample_stop)
        return self._read(teacher, views, rows, f"unit {unit.key}")

    def unit_labels(self, unit: UnitAddress, views: range, teacher: int = 0) -> list[TopKLabels]:
        """The labels of a unit's samples under consecutive views of it, whatever else is committed.

        Raises:
            MissingLabelsError: the unit is not committed.
            StoreError: it is damaged or lost.
        """
        self.check_teacher(teacher)
        record = self.record(unit, teacher)
        if record is None:
            raise MissingLabelsError(f"{self.path}: unit {unit.key} of teacher {teacher} is not committed")
        rows = slice(unit.sample_start, unit.sample_stop)
        parts = self._read(teacher, slice(views.start, views.stop), rows, f"unit {unit.key}")
        num_classes, found = self.manifest.teachers[teacher].codec.num_classes, []
        for at, view in enumerate(views):
            labels = {name: np.ascontiguousarray(parts[name][at]) for name in ARRAYS}
            self.check_labels(unit, teacher, record, view, labels)
            classes, codes, tail = (torch.from_numpy(labels[name]) for name in ARRAYS)
            found.append(TopKLabels(classes, codes, tail, num_classes))
        return found

    def check_labels(
        self, unit: UnitAddress, teacher: int, record: Record, view: int, labels: dict[str, NDArray[Any]]
    ) -> None:
        """StoreError unless labels [n, ...] of a unit and one of its views are those that its record tells of."""
        digest, wanted = commit.labels_digest(*(labels[name] for name in ARRAYS)), record.labels[view - unit.view_start]
        if digest != wanted:
            raise StoreError(
                f"{self.path}: unit {unit.key} of teacher {teacher} is damaged or lost: the labels of view {view} "
                f"have the digest {digest[:12]}, its record says {wanted[:12]}; {self.remedy(unit, teacher)}"
            )

    def _read(self, teacher: int, views: slice, rows: slice, what: str) -> dict[str, NDArray[Any]]:
        try:
            return {name: self._arrays[teacher][name][views, rows] for name in ARRAYS}
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(f"{self.path}: {what} of teacher {teacher} cannot be read: {error}") from error

    def _plane(
        self, parts: dict[str, NDArray[Any]], view: int, teacher: int, records: list[tuple[UnitAddress, Record]]
    ) -> LabelPlane:
        for unit, record in records:
            rows = slice(unit.sample_start, unit.sample_stop)
            self.check_labels(unit, teacher, record, view, {name: parts[name][rows] for name in ARRAYS})
        if self.manifest.num_rows != self.manifest.num_labelled:
            used = [slice(rows.start, rows.stop) for rows in self.manifest.segments]
            parts = {name: np.concatenate([parts[name][rows] for rows in used]) for name in ARRAYS}
        codec = self.manifest.teachers[teacher].codec
        return LabelPlane.from_numpy(parts, codec.num_classes, self._plane_ids, self.manifest.dataset.num_samples)

    def check_boxes(self, view: int, heights: NDArray[np.int32], widths: NDArray[np.int32], teacher: int = 0) -> None:
        """ManifestMismatchError unless this code crops a view exactly as the teacher saw it.

        Args:
            heights, widths: int32 [num_samples], pixels of all images of the dataset file.
        """
        for unit, record in self._records_of_view(view, teacher):
            ids = self.unit_ids(unit)
            boxes = self.views.boxes(view, ids, heights[ids], widths[ids])
            if commit.boxes_digest(boxes) != record.boxes[view - unit.view_start]:
                raise ManifestMismatchError(
                    f"{self.path}: the crops of view {view} are not those that were labelled (samples {ids[0]} to "
                    f"{ids[-1]}); the dataset's image sizes or the code that makes crops have changed"
                )

    def check_teacher(self, teacher: int) -> None:
        """MissingLabelsError unless the store has a teacher of that number."""
        if not 0 <= integer("teacher", teacher) < len(self.manifest.teachers):
            raise MissingLabelsError(
                f"{self.path} has no teacher {teacher}; it has {len(self.manifest.teachers)}, counted from 0"
            )

    def _records_of_view(self, view: int, teacher: int) -> list[tuple[UnitAddress, Record]]:
        self.check_teacher(teacher)
        if not 0 <= view < self.num_views:
            raise MissingLabelsError(f"{self.path} has no view {view}; it has {self.num_views}, counted from 0")
        found = []
        for unit in self.units():
            if unit.view_start <= view < unit.view_stop:
                record = self.record(unit, teacher)
                if record is None:
                    raise MissingLabelsError(
                        f"{self.path}: view {view} of teacher {teacher} is not labelled yet (unit {unit.key} is not "
                        "committed); run the same `fastlabel cache-labels` command again to finish it"
                    )
                found.append((unit, record))
        return found

    def _open_arrays(self, teacher: int) -> dict[str, Any]:
        return {name: _array(self._root, f"{teacher}/{name}", self.path) for name in ARRAYS}

    def _check_arrays(self) -> None:
        least = (self.num_views, self.manifest.num_rows)
        for teacher, info in enumerate(self.manifest.teachers):
            for name, (width, dtype) in nodes.columns(info.codec).items():
                array = self._arrays[teacher][name]
                found = array.shape
                enough = len(found) == 3 and found[0] >= least[0] and found[1] >= least[1] and found[2] == width
                if not enough or array.dtype != dtype:
                    raise StoreError(
                        f"{self.path} is damaged: {teacher}/{name} is {array.dtype} {found}, "
                        f"its manifest needs {dtype} {(*least, width)}"
                    )


def _array(root: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    try:
        array = root[name]
    except Exception as error:  # zarr raises many kinds for damaged metadata
        raise StoreError(f"{path} is damaged: its array {name} cannot be opened ({error})") from error
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path} is damaged: {name} is not an array")
    return array


def _read_teachers(path: Path, count: Any) -> list[Any]:
    teachers: list[Any] = []
    for teacher in range(count if type(count) is int else 0):
        try:
            teachers.append(nodes.read_node(path / str(teacher))["attributes"][ATTRIBUTE])
        except (OSError, KeyError) as error:
            raise StoreError(f"{path} is damaged: teacher {teacher} has no manifest") from error
    return teachers


def empty_labels(codec: TopKCodec, shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Arrays of zeros for the labels of [views, samples], as ``LabelStore.write`` takes them."""
    return {name: np.zeros((*shape, width), dtype) for name, (width, dtype) in nodes.columns(codec).items()}


def compressed_bytes(labels: TopKLabels) -> int:
    """How many bytes these labels take as one chunk of each array."""
    codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    arrays = (labels.classes.cpu().numpy(), labels.codes.cpu().numpy(), labels.tail.cpu().numpy())
    return sum(len(codec.encode(np.ascontiguousarray(array))) for array in arrays)
