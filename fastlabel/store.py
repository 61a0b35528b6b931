"""LabelStore: a Zarr v3 group of label planes for every teacher and view. docs/format.md is its specification."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from fastlabel import commit
from fastlabel.codec import TopKCodec
from fastlabel.commit import ARRAYS, Record, UnitAddress
from fastlabel.errors import ManifestMismatchError, MissingLabelsError, StoreError
from fastlabel.labels import TopKLabels
from fastlabel.manifest import Manifest, check_version, ids_digest
from fastlabel.plane import LabelPlane
from fastlabel.views import ViewPolicy

ATTRIBUTE, CLASS_NAMES, SAMPLES = "fastlabel", "class_names", "samples"


def _compressors() -> list[Any]:
    # Bitshuffle makes 10-bit class ids in 16 bits cost 10 bits; the checksum finds a damaged chunk when it is read.
    return [BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()]


class LabelStore:
    """Soft labels of N samples under V views, from one or more teachers. Made by ``cache_labels``.

    Open one with :meth:`open`. Reading never changes a store.
    """

    def __init__(self, path: Path, manifest: Manifest, root: zarr.Group) -> None:
        self.path, self.manifest, self._root = path, manifest, root
        self._digests = [manifest.digest(teacher) for teacher in range(len(manifest.teachers))]
        self._arrays = [self._open_arrays(teacher) for teacher in range(len(manifest.teachers))]
        self.num_views = int(self._arrays[0]["classes"].shape[0])
        self._check_arrays()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> LabelStore:
        """Open a store for reading.

        Raises:
            StoreError: there is no store at that path, it is of an unknown version, or its metadata is damaged.
        """
        path = Path(path)
        if not path.exists():
            raise StoreError(f"no label store at {path}; make one with `fastlabel cache-labels`")
        try:
            root = zarr.open_group(path, mode="r")
            data: dict[str, Any] = dict(cast("dict[str, Any]", root.attrs[ATTRIBUTE]))
        except Exception as error:  # zarr raises many kinds for damaged metadata
            raise StoreError(f"{path} is not a fastlabel label store (a Zarr v3 group with its manifest)") from error
        check_version(data)
        data["teachers"] = _read_teachers(path, root)
        return cls(path, Manifest.from_dict(data), root)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        manifest: Manifest,
        num_views: int,
        ids: NDArray[np.int64],
        class_names: Sequence[str] | None = None,
    ) -> LabelStore:
        """Make an empty store, complete with all metadata or not at all.

        Raises:
            StoreError: something already exists at that path.
        """
        path = Path(path)
        if path.exists():
            raise StoreError(f"{path} exists already; choose another path")
        manifest.validate()
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            root = zarr.create_group(partial, attributes=_root_attributes(manifest, class_names))
            _create_samples(root, ids)
            for teacher in range(len(manifest.teachers)):
                _create_teacher(root, teacher, manifest, num_views)
            commit.fsync_tree(partial)
            partial.rename(path)
            commit.fsync(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return cls.open(path)

    @property
    def views(self) -> ViewPolicy:
        """The policy that gives each view's crop boxes."""
        return self.manifest.views

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
        array = _array(self._root, SAMPLES, self.path)
        try:
            ids = np.asarray(array[:], np.int64)
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(f"{self.path} is damaged: its sample ids cannot be read: {error}") from error
        if ids_digest(ids) != self.manifest.samples.digest or len(ids) != self.manifest.samples.count:
            raise StoreError(f"{self.path} is damaged: its sample ids do not have the digest that its manifest gives")
        return ids

    def units(self) -> Iterator[UnitAddress]:
        """The addresses of all units, committed or not."""
        unit = self.manifest.unit
        return commit.addresses(self.num_views, self.manifest.samples.count, unit.views, unit.samples)

    def record(self, unit: UnitAddress, teacher: int = 0) -> Record | None:
        """A unit's record, or None where it is not committed."""
        record = commit.read_record(self.path, teacher, unit)
        if record is not None and record.manifest != self._digests[teacher]:
            raise ManifestMismatchError(
                f"{self.path}: unit {unit.key} of teacher {teacher} was made under another manifest than the store's; "
                "its metadata was changed after labelling"
            )
        return record

    def check_shards(self, unit: UnitAddress, teacher: int) -> None:
        """StoreError where a committed unit has lost a file."""
        for name in ARRAYS:
            if not commit.shard_path(self.path, teacher, name, unit).is_file():
                raise StoreError(
                    f"{self.path}: unit {unit.key} of teacher {teacher} has lost its {name}; "
                    f"{self._remedy(unit, teacher)}"
                )

    def _remedy(self, unit: UnitAddress, teacher: int) -> str:
        record = commit.record_path(self.path, teacher, unit).parent
        return f"to label it again, remove {record} and give its `fastlabel cache-labels` command again"

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
        record = Record(*place, self._digests[teacher], digests, tuple(map(commit.boxes_digest, boxes)))
        commit.write_unit(self.path, teacher, unit, labels, record)

    def plane(self, view: int, teacher: int = 0, device: str | torch.device = "cpu") -> LabelPlane:
        """The labels of all samples under one view, from one teacher, checked against their digests.

        Raises:
            MissingLabelsError: no such view or teacher, or a part of the view is not committed.
            StoreError: a committed part is damaged or lost.
        """
        return self.planes(range(view, view + 1), teacher, device)[0]

    def planes(self, views: range, teacher: int = 0, device: str | torch.device = "cpu") -> list[LabelPlane]:
        """The planes of consecutive views, each as :meth:`plane` gives it, read at once."""
        records = [self._records_of_view(view, teacher) for view in views]
        try:
            arrays = {name: self._arrays[teacher][name][views.start : views.stop] for name in ARRAYS}
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(f"{self.path}: view {views.start} of teacher {teacher} cannot be read: {error}") from error
        return [
            self._plane({name: arrays[name][at] for name in ARRAYS}, view, teacher, records[at]).to(device)
            for at, view in enumerate(views)
        ]

    def _plane(
        self, parts: dict[str, NDArray[Any]], view: int, teacher: int, records: list[tuple[UnitAddress, Record]]
    ) -> LabelPlane:
        for unit, record in records:
            rows = slice(unit.sample_start, unit.sample_stop)
            digest = commit.labels_digest(*(parts[name][rows] for name in ARRAYS))
            if digest != record.labels[view - unit.view_start]:
                raise StoreError(
                    f"{self.path}: unit {unit.key} of teacher {teacher} is damaged or lost: the labels of view {view} "
                    f"have the digest {digest[:12]}, its record says {record.labels[view - unit.view_start][:12]}; "
                    f"{self._remedy(unit, teacher)}"
                )
        codec = self.manifest.teachers[teacher].codec
        return LabelPlane.from_numpy(parts, codec.num_classes, self.ids, self.manifest.dataset.num_samples)

    def check_boxes(self, view: int, heights: NDArray[np.int32], widths: NDArray[np.int32], teacher: int = 0) -> None:
        """ManifestMismatchError unless this code crops a view exactly as the teacher saw it.

        Args:
            heights, widths: int32 [num_samples], pixels of all images of the dataset file.
        """
        for unit, record in self._records_of_view(view, teacher):
            ids = self.ids[unit.sample_start : unit.sample_stop]
            boxes = self.views.boxes(view, ids, heights[ids], widths[ids])
            if commit.boxes_digest(boxes) != record.boxes[view - unit.view_start]:
                raise ManifestMismatchError(
                    f"{self.path}: the crops of view {view} are not those that were labelled (samples {ids[0]} to "
                    f"{ids[-1]}); the dataset's image sizes or the code that makes crops have changed"
                )

    def check_teacher(self, teacher: int) -> None:
        """MissingLabelsError unless the store has a teacher of that number."""
        if not 0 <= teacher < len(self.manifest.teachers):
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
        for teacher, info in enumerate(self.manifest.teachers):
            rows = (self.num_views, self.manifest.samples.count)
            for name, (width, dtype) in _columns(info.codec).items():
                shape = (*rows, width)
                array = self._arrays[teacher][name]
                if array.shape != shape or array.dtype != dtype:
                    raise StoreError(
                        f"{self.path} is damaged: {teacher}/{name} is {array.dtype} {array.shape}, "
                        f"its manifest says {dtype} {shape}"
                    )


def _array(root: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    try:
        array = root[name]
    except Exception as error:  # zarr raises many kinds for damaged metadata
        raise StoreError(f"{path} is damaged: its array {name} cannot be opened ({error})") from error
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path} is damaged: {name} is not an array")
    return array


def _read_teachers(path: Path, root: zarr.Group) -> list[Any]:
    teachers: list[Any] = []
    while (path / str(len(teachers))).is_dir():
        try:
            teachers.append(root[str(len(teachers))].attrs[ATTRIBUTE])
        except Exception as error:  # zarr raises many kinds for damaged metadata
            raise StoreError(f"{path} is damaged: teacher {len(teachers)} has no manifest") from error
    return teachers


def _root_attributes(manifest: Manifest, class_names: Sequence[str] | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {ATTRIBUTE: manifest.root_dict()}
    if class_names:
        attributes[CLASS_NAMES] = list(class_names)
    return attributes


def _create_samples(root: zarr.Group, ids: NDArray[np.int64]) -> None:
    array = root.create_array(SAMPLES, shape=ids.shape, dtype="int64", chunks=ids.shape, compressors=_compressors())
    array[:] = ids


def _create_teacher(root: zarr.Group, teacher: int, manifest: Manifest, num_views: int) -> None:
    info, unit = manifest.teachers[teacher], manifest.unit
    group = root.create_group(str(teacher), attributes={ATTRIBUTE: info.to_dict()})
    group.create_group(commit.UNITS)
    for name, (width, dtype) in _columns(info.codec).items():
        group.create_array(
            name,
            shape=(num_views, manifest.samples.count, width),
            dtype=dtype,
            shards=(unit.views, unit.samples, width),
            chunks=(1, unit.samples, width),
            compressors=_compressors(),
            dimension_names=("view", "sample", "kept" if name != "tail" else "summary"),
        )


def empty_labels(codec: TopKCodec, shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Arrays of zeros for the labels of [views, samples], as ``LabelStore.write`` takes them."""
    return {name: np.zeros((*shape, width), dtype) for name, (width, dtype) in _columns(codec).items()}


def _columns(codec: TopKCodec) -> dict[str, tuple[int, np.dtype[Any]]]:
    """Width and dtype of each array's last axis."""
    return {
        "classes": (codec.k, codec.classes_dtype),
        "codes": (codec.k, np.dtype(np.uint8)),
        "tail": (2, np.dtype("<u2")),
    }


def compressed_bytes(labels: TopKLabels) -> int:
    """How many bytes these labels take as one chunk of each array."""
    codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    arrays = (labels.classes.cpu().numpy(), labels.codes.cpu().numpy(), labels.tail.cpu().numpy())
    return sum(len(codec.encode(np.ascontiguousarray(array))) for array in arrays)
