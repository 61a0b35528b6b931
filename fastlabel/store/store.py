"""LabelStore: a Zarr v3 group of label planes for every teacher and view. docs/format.md is its specification."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.errors import ManifestMismatchError, MissingLabelsError, StoreError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store import layout, tables, units
from fastlabel.store.layout import NODE, SAMPLES, UNITS
from fastlabel.store.manifest import Manifest, TeacherInfo
from fastlabel.store.metadata import Metadata, read_metadata
from fastlabel.store.plane import LabelPlane
from fastlabel.store.shard import BY_COLUMN, HARD, encode_chunk
from fastlabel.store.unit_reader import Labels, Report, UnitReader, other_boxes
from fastlabel.store.units import Record, UnitAddress
from fastlabel.system.arguments import integer, one_of
from fastlabel.system.atomic_files import new_folder
from fastlabel.system.devices import pick_device
from fastlabel.views import Partners, ViewPolicy


class LabelStore:
    """Soft labels of N samples under V views, from one or more teachers. Made by ``cache_labels``.

    Open one with :meth:`open`. Reading never changes a store.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.path, self.manifest, self._metadata = metadata.path, metadata.check(), metadata
        self._readers = [UnitReader(metadata, teacher) for teacher in range(len(self.manifest.teachers))]

    def __repr__(self) -> str:
        names = ", ".join(info.name for info in self.teachers)
        return (
            f"LabelStore({str(self.path)!r}: {self.manifest.num_labelled} samples, {self.num_views} views, "
            f"{self.num_classes} classes, teachers {names})"
        )

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
        return cls(read_metadata(path))

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
            segments: the ids of each of the manifest's segments, in their `segment_order`.

        Raises:
            StoreError: something already exists at that path.
        """
        path = Path(path)
        manifest.validate()
        with new_folder(path) as folder:
            layout.write_files(folder, empty_store(manifest, segments, class_names))
        return cls.open(path)

    def grow(self, manifest: Manifest, new_ids: NDArray[np.int64]) -> LabelStore:
        """Give the store a larger extent: more views, another segment of samples, more teachers; no unit is touched.

        A growth that is cut short leaves the store as it was, with nodes that are larger than its manifest says or
        that it does not name; the next one makes use of the former and replaces the latter.

        Args:
            manifest: of the larger store. new_ids: of the segment that it has more, in `segment_order`; else empty.

        Returns:
            The larger store; this object stays a valid view of the smaller one.
        """
        segments = [*self.segments, new_ids][: len(manifest.samples)]
        files = empty_store(manifest, segments, self.class_names)
        added = [f"{SAMPLES}/{number}" for number in range(len(self.manifest.samples), len(manifest.samples))]
        added += [str(teacher) for teacher in range(len(self.manifest.teachers), len(manifest.teachers))]
        for name in added:
            self._add(name, {file: content for file, content in files.items() if file.startswith(f"{name}/")})
        for teacher in range(len(self.manifest.teachers)):
            for name in self.arrays(teacher):
                layout.lengthen_array(self.path / str(teacher) / name, manifest)
        layout.replace_manifest(self.path, manifest)
        return LabelStore.open(self.path)

    def _add(self, name: str, files: dict[str, bytes]) -> None:
        """Put a node into the store that its manifest does not name yet: all files below its folder."""
        if any((self.path / name / UNITS).glob(f"*/{NODE}")):
            raise StoreError(
                f"{self.path} has labels at {self.path / name} that its manifest does not name: its zarr.json is older "
                "than they are; put the newer one back, or move them away"
            )
        with new_folder(self.path / name, replace=True) as folder:
            layout.write_files(folder, {file.removeprefix(f"{name}/"): content for file, content in files.items()})

    def arrays(self, teacher: int) -> tuple[str, ...]:
        """The names of a teacher's arrays, in the order of the format."""
        return self._readers[teacher].arrays

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
    def teachers(self) -> tuple[TeacherInfo, ...]:
        """What the store says of each teacher: name, network, normalisation, precision, codec."""
        return self.manifest.teachers

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._metadata.class_names

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """int64 [N], ascending: the samples that are labelled, by index in the dataset file."""
        return np.sort(self._plane_ids, kind="stable")

    @cached_property
    def _plane_ids(self) -> NDArray[np.int64]:
        """The sample of each row of a plane, which has the rows in use alone."""
        return np.concatenate(self.segments)

    @property
    def segments(self) -> list[NDArray[np.int64]]:
        """int64: the samples of each of the manifest's segments in the order of their rows: see `segment_order`."""
        return [ids for ids in self._metadata.segments if ids is not None]  # all are there: `check` looked

    def unit_ids(self, unit: UnitAddress) -> NDArray[np.int64]:
        """int64 [n]: the samples of a unit, by index in the dataset file, in the order of its rows."""
        ids = self._metadata.unit_ids(unit)
        if ids is None:
            raise StoreError(f"{self.path} has no rows {unit.sample_start} to {unit.sample_stop}")
        return ids

    @property
    def partners(self) -> Partners | None:
        """Who is mixed with whom; None where no view is mixed."""
        return self._metadata.partners

    def check_dataset(self, num_samples: int, fingerprint: str, data: str | os.PathLike[str]) -> None:
        """ManifestMismatchError unless the store was made from this dataset file.

        Args:
            num_samples, fingerprint: of the file, as ``Beton`` gives them.
            data: path of the file, for the message.
        """
        wanted = self.manifest.dataset
        if (num_samples, fingerprint) != (wanted.num_samples, wanted.fingerprint):
            raise ManifestMismatchError(
                f"{self.path} holds labels of another dataset than {data}: {wanted.num_samples} samples with the "
                f"fingerprint {wanted.fingerprint[:12]}, not {num_samples} with {fingerprint[:12]}"
            )

    def check_teacher(self, teacher: int) -> None:
        """MissingLabelsError unless the store has a teacher of that number."""
        if not 0 <= integer("teacher", teacher) < len(self.manifest.teachers):
            raise MissingLabelsError(
                f"{self.path} has no teacher {teacher}; it has {len(self.manifest.teachers)}, counted from 0"
            )

    def units(self) -> Iterator[UnitAddress]:
        """The addresses of all units, committed or not."""
        return units.addresses(self.manifest)

    def committed(self, teacher: int = 0) -> list[UnitAddress]:
        """The units of a teacher that are committed, each up to the last of its views that is.

        Raises what :meth:`record` raises.
        """
        found = []
        for unit in units.recorded_units(self.path, teacher, self.manifest):
            record = self.record(unit, teacher)
            if record is not None:
                found.append(replace(unit, view_stop=min(unit.view_stop, record.view_stop)))
        return found

    def record(self, unit: UnitAddress, teacher: int = 0) -> Record | None:
        """A unit's record, or None where it is not committed; of some of its views where the store has grown since.

        Raises:
            StoreError: it is damaged. ManifestMismatchError: it was made under another manifest, or of other samples.
        """
        try:
            return self._readers[teacher].record(unit)
        except ManifestMismatchError as error:
            raise ManifestMismatchError(f"{self.path}: unit {unit.key} of teacher {teacher} {error}") from error

    def check_shards(self, unit: UnitAddress, teacher: int) -> None:
        """StoreError where a committed unit has lost a file."""
        for name in self.arrays(teacher):
            if not units.shard_path(self.path, teacher, name, unit).is_file():
                raise StoreError(
                    f"{self.path}: unit {unit.key} of teacher {teacher} has lost its {name}; {self._remedy}"
                )

    def check_grown(self, unit: UnitAddress, teacher: int) -> None:
        """StoreError unless the views that a unit has before its ``view_start`` are whole: what it gains joins them."""
        before = replace(unit, view_start=unit.row * self.manifest.unit.views, view_stop=unit.view_start)
        if before.view_start < before.view_stop:
            self.check_labels(before, teacher, self.refusal(before, teacher))

    def write(self, unit: UnitAddress, teacher: int, labels: Labels, boxes: Sequence[NDArray[np.int32]]) -> None:
        """Write and commit one unit, or the views that a committed one lacks since the store has grown.

        A unit that is written again is not committed meanwhile.

        Args:
            unit: as :meth:`units` gives it; or with a later ``view_start``, up to which it is committed.
            labels: "classes" [v, n, K], "codes" uint8 [v, n, K] and "tail" uint16 [v, n, 2] of the unit's v views
                and n samples; and "coefficients" uint8 [v, n, R] where the codec has a transform.
            boxes: int32 for each of its views, as `crop_table` gives them.
        """
        digests = tuple(
            units.labels_digest({name: values[v] for name, values in labels.items()}) for v in range(unit.shape[0])
        )
        crops = tuple(map(units.boxes_digest, boxes))
        whole = replace(unit, view_start=unit.row * self.manifest.unit.views)
        if unit == whole:
            units.discard_record(self.path, teacher, unit)
        else:
            before = replace(whole, view_stop=unit.view_start)
            old, kept = self.read_unit(before, teacher), self._committed(before, teacher)
            labels = {name: np.concatenate([old[name], values]) for name, values in labels.items()}
            digests, crops = kept.labels[: before.shape[0]] + digests, kept.boxes[: before.shape[0]] + crops
        place = (whole.view_start, whole.view_stop, whole.sample_start, whole.sample_stop)
        ids = self._readers[teacher].ids_digest(unit)
        assert ids is not None  # `check` looked
        record = Record(*place, self._readers[teacher].manifest_digest, ids, digests, crops)
        units.write_unit(self.path, teacher, whole, labels, record, self.manifest.unit)

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
        wanted = list(dict.fromkeys(one for view in views for one in self._units_of_view(view, teacher)))
        codec = self.manifest.teachers[teacher].codec
        parts = empty_labels(codec, (len(views), self.manifest.num_labelled))

        def read(unit: UnitAddress, record: Record) -> None:
            rows = self.manifest.plane_rows(unit.sample_start, unit.sample_stop)
            mine = range(max(views.start, unit.view_start), min(views.stop, unit.view_stop))
            for view, labels in self._read(unit, teacher, record, mine):
                for name in parts:
                    parts[name][view - views.start, rows] = labels[name]

        # Reading, hashing and Blosc leave the interpreter's lock.
        with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
            for done in [pool.submit(read, *one) for one in wanted]:
                done.result()
        samples = self.manifest.dataset.num_samples
        planes = [{name: values[at] for name, values in parts.items()} for at in range(len(views))]
        return [LabelPlane.from_numpy(one, codec, self._plane_ids, samples).to(device) for one in planes]

    def to_numpy(
        self, views: int | Sequence[int] | None = None, teacher: int = 0, temperature: float = 1.0
    ) -> dict[str, NDArray[Any]]:
        """The labels of some views (None: all) of the N labelled samples, as arrays.

        Returns:
            ids int64 [N], ascending; views int64 [V]; classes int32 [V, N, K] and their probs float32 [V, N, K] at
            that temperature; rest float32 [V, N], of each class that is not listed; entropy float64 [V, N] in nats.
            Labels with a transform list all classes, in their order.

        Raises:
            MissingLabelsError, StoreError: as :meth:`plane`.
            InputError: no views, or a temperature that is not positive.
        """
        return tables.as_numpy(self, views, teacher, temperature)

    def to_pandas(self, views: int | Sequence[int] | None = None, teacher: int = 0, temperature: float = 1.0) -> Any:
        """As :meth:`to_numpy`, as a DataFrame of a row for each label: view, id, top1, top1_prob, entropy, rest, and
        classes and probs as arrays [K]. InputError without pandas."""
        return tables.as_pandas(self, views, teacher, temperature)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        views: int | Sequence[int] | None = None,
        teacher: int = 0,
        temperature: float = 1.0,
        force: bool = False,
    ) -> None:
        """Write the rows of :meth:`to_pandas` to a Parquet file, a view at a time. InputError without pyarrow, or
        where the file exists and `force` is not given."""
        tables.write_parquet(self, Path(path), views, teacher, temperature, force)

    def read_unit(self, unit: UnitAddress, teacher: int = 0) -> Labels:
        """The labels of a committed unit as :meth:`write` takes them. Raises what :meth:`unit_labels` raises."""
        labels = empty_labels(self.manifest.teachers[teacher].codec, unit.shape)
        for view, found in self._read(unit, teacher, self._committed(unit, teacher), unit.views):
            for name in labels:
                labels[name][view - unit.view_start] = found[name]
        return labels

    def check_labels(self, unit: UnitAddress, teacher: int, report: Report) -> None:
        """Tell ``report`` of everything that is wrong with the labels of a committed unit."""
        for _ in self._readers[teacher].labels(unit, self._committed(unit, teacher), unit.views, report):
            pass

    def unit_labels(self, unit: UnitAddress, views: range, teacher: int = 0) -> list[TopKLabels]:
        """The labels of a unit's samples under consecutive views of it, whatever else is committed.

        Raises:
            MissingLabelsError: the unit is not committed.
            StoreError: it is damaged or lost.
        """
        self.check_teacher(teacher)
        codec, found = self.manifest.teachers[teacher].codec, []
        for _, labels in self._read(unit, teacher, self._committed(unit, teacher), views):
            found.append(codec.labels({name: torch.from_numpy(values) for name, values in labels.items()}))
        return found

    def check_boxes(self, view: int, heights: NDArray[np.int32], widths: NDArray[np.int32], teacher: int = 0) -> None:
        """ManifestMismatchError unless this code crops a view exactly as the teacher saw it.

        Args:
            heights, widths: int32 [num_samples], pixels of all images of the dataset file.
        """
        for unit, _ in self._units_of_view(view, teacher):
            self.check_unit_boxes(unit, view, heights, widths, teacher)

    def check_unit_boxes(
        self, unit: UnitAddress, view: int, heights: NDArray[np.int32], widths: NDArray[np.int32], teacher: int = 0
    ) -> None:
        """As :meth:`check_boxes`, for the samples of one committed unit."""
        ids, records = self.unit_ids(unit), {teacher: self._committed(replace(unit, view_stop=view + 1), teacher)}
        sizes = heights, widths
        for _ in other_boxes(self.views, self.partners, unit, ids, sizes, records, range(view, view + 1)):
            raise ManifestMismatchError(
                f"{self.path}: the crops of view {view} are not those that were labelled (samples {ids[0]} to "
                f"{ids[-1]}); the dataset's image sizes or the code that makes crops have changed"
            )

    def _read(self, unit: UnitAddress, teacher: int, record: Record, views: range) -> Iterator[tuple[int, Labels]]:
        """The labels of a unit under some of its views. StoreError where they are not those of its record."""
        return self._readers[teacher].labels(unit, record, views, self.refusal(unit, teacher))

    def refusal(self, unit: UnitAddress, teacher: int) -> Report:
        """A report that raises the first thing that is wrong with a unit, as a StoreError."""

        def refuse(file: str, problem: str, view: int | None) -> NoReturn:
            what = "" if view is None else f"the labels of view {view}: "
            raise StoreError(
                f"{self.path}: unit {unit.key} of teacher {teacher} is damaged or lost: {what}{file} {problem}; "
                f"{self._remedy}"
            )

        return refuse

    @property
    def _remedy(self) -> str:
        return f"`fastlabel repair {self.path} DATA.beton --teacher ...` labels it again"

    def _committed(self, unit: UnitAddress, teacher: int) -> Record:
        record = self.record(unit, teacher)
        if record is None or record.view_stop < unit.view_stop:
            raise MissingLabelsError(f"{self.path}: unit {unit.key} of teacher {teacher} is not committed")
        return record

    def _units_of_view(self, view: int, teacher: int) -> list[tuple[UnitAddress, Record]]:
        """The units of a view, all of which must be committed, and their records."""
        self.check_teacher(teacher)
        if not 0 <= view < self.num_views:
            raise MissingLabelsError(f"{self.path} has no view {view}; it has {self.num_views}, counted from 0")
        found = []
        for unit in units.units_of_row(self.manifest, view // self.manifest.unit.views):
            record = self.record(unit, teacher)
            if record is None or record.view_stop <= view:
                raise MissingLabelsError(
                    f"{self.path}: view {view} of teacher {teacher} is not labelled yet (unit {unit.key} is not "
                    "committed); run the same `fastlabel cache-labels` command again to finish it"
                )
            found.append((unit, record))
        return found


def empty_store(
    manifest: Manifest, segments: Sequence[NDArray[np.int64]], class_names: Sequence[str] | None
) -> dict[str, bytes]:
    """The content, by path, of all files of a store that has no unit.

    Args:
        segments: the ids of each of the manifest's segments, in their order.
    """
    nodes = layout.store_nodes(manifest, class_names)
    files = {layout.node_file(folder): layout.node_text(node).encode() for folder, node in nodes.items()}
    ids = {layout.segment_file(number): encode_chunk(ids.astype("<i8")) for number, ids in enumerate(segments)}
    return files | ids | _bases(manifest) | _crops(manifest)


def _bases(manifest: Manifest) -> dict[str, bytes]:
    """The bases of teachers whose labels have a transform, by path; not of those that were lost."""
    codecs = enumerate(info.codec for info in manifest.teachers)
    return {
        layout.basis_file(number): encode_chunk(codec.basis.to_numpy())
        for number, codec in codecs
        if isinstance(codec, TransformCodec) and codec.basis is not None
    }


def _crops(manifest: Manifest) -> dict[str, bytes]:
    """The tables of stored crops, by path."""
    if manifest.views.crops is None:
        return {}
    return {
        layout.crops_file(view): encode_chunk(manifest.views.stored_view(view).astype(layout.CROPS_DTYPE))
        for view in range(len(manifest.views.digests))
    }


def empty_labels(codec: TopKCodec, shape: tuple[int, int]) -> Labels:
    """Arrays of zeros for the labels of [views, samples], as ``LabelStore.write`` takes them."""
    return {name: np.zeros((*shape, width), dtype) for name, (width, dtype) in layout.columns(codec).items()}


def compressed_bytes(labels: TopKLabels, codec: TopKCodec) -> int:
    """How many bytes these labels take as one chunk of each array."""
    arrays = codec.arrays(labels)
    return sum(
        len(encode_chunk(values.T, HARD) if name in BY_COLUMN else encode_chunk(values))
        for name, values in arrays.items()
    )
