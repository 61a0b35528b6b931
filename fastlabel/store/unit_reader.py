"""The one reader of units: their records, their shards, and the digests that hold them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import ManifestMismatchError
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store.finding import without_path
from fastlabel.store.layout import columns
from fastlabel.store.metadata import Metadata
from fastlabel.store.shard import BY_COLUMN, DamagedFileError, Shard
from fastlabel.store.units import Record, UnitAddress, boxes_digest, labels_digest, read_record, shard_file
from fastlabel.views import Partners, ViewPolicy, crop_table

Labels = dict[
    str, NDArray[Any]
]  # "classes" [n, K], "codes" uint8 [n, K] and "tail" uint16 [n, 2], and "coefficients" uint8 [n, R] where there are
Report = Callable[[str, str, int | None], None]  # takes a file of the store, what is wrong with it, and the view


class UnitReader:
    """Reads the units of one teacher of a store, as its metadata says them to be.

    Args:
        index: of the teacher among those of ``metadata.manifest``.

    Attributes:
        teacher: its number in the store. num_classes: C of its labels. has_offset: whether
            these keep their mean logit. arrays: the names of its arrays.
    """

    def __init__(self, metadata: Metadata, index: int) -> None:
        assert metadata.manifest is not None
        self.teacher, self._metadata = metadata.numbers[index], metadata
        codec = metadata.manifest.teachers[index].codec
        self.num_classes = codec.num_classes
        self.has_offset = isinstance(codec, TransformCodec) and codec.logit_offset
        self._unit, self._columns = metadata.manifest.unit, columns(codec)
        self.arrays = tuple(self._columns)
        self.manifest_digest = metadata.manifest.digest(index)
        self._ids_digests: dict[int, str | None] = {}

    def ids_digest(self, unit: UnitAddress) -> str | None:
        """The digest of a unit's sample ids, or None where they are damaged."""
        if unit.column not in self._ids_digests:
            self._ids_digests[unit.column] = self._metadata.unit_ids_digest(unit)
        return self._ids_digests[unit.column]

    def record(self, unit: UnitAddress) -> Record | None:
        """A unit's record, or None where it is not committed; of some of its views where it has grown since.

        Raises:
            StoreError: it is damaged, or of another unit; names the file.
            ManifestMismatchError: it is of another manifest or of other samples; does not name it.
        """
        record = read_record(self._metadata.path, self.teacher, unit)
        if record is None:
            return None
        if record.manifest != self.manifest_digest:
            raise ManifestMismatchError(
                "was made under another manifest than the store's; its metadata was changed after labelling, or it is "
                "of another teacher"
            )
        if self.ids_digest(unit) not in (None, record.samples):
            raise ManifestMismatchError(
                "holds labels of other samples than the store names there; its sample ids were changed after labelling"
            )
        return record

    def labels(
        self, unit: UnitAddress, record: Record | None, views: range, report: Report
    ) -> Iterator[tuple[int, Labels]]:
        """The labels of a unit under some of its views that are whole, and those that its record tells of.

        Args:
            record: None where there is none to compare with.
            report: is told of everything else; may raise.
        """
        files = {name: shard_file(self.teacher, name, unit) for name in self.arrays}
        with ExitStack() as held:
            shards: dict[str, Shard] = {}
            for name, file in files.items():
                path = self._metadata.path / file
                try:
                    shards[name] = held.enter_context(self._open(name, unit, record))
                except (OSError, DamagedFileError) as error:
                    report(file, without_path(error, path), None)
            for view in views:
                labels: Labels = {}
                for name, shard in shards.items():
                    try:
                        labels[name] = shard.view(view - unit.view_start)[: unit.shape[1]]
                    except (OSError, DamagedFileError) as error:
                        report(files[name], without_path(error, self._metadata.path / files[name]), view)
                if len(labels) < len(self.arrays):
                    continue
                # Whatever its digest says: readers write to the place of a class.
                if int(labels["classes"].max()) >= self.num_classes:
                    report(files["classes"], f"holds a class that is none of the {self.num_classes}", view)
                    continue
                wanted = None if record is None else record.labels[view - unit.view_start]
                found = labels_digest(labels)
                if wanted in (None, found):
                    yield view, labels
                    continue
                problem = (
                    f"hold labels of the digest {found[:12]}, their record says {wanted[:12]}: one of them is the file "
                    "of another unit, or an older one"
                )
                report(", ".join(files.values()), problem, view)

    def _open(self, name: str, unit: UnitAddress, record: Record | None) -> Shard:
        width, dtype = self._columns[name]
        path = self._metadata.path / shard_file(self.teacher, name, unit)
        views, places = unit.shape[0] if record is None else len(record.labels), self._unit.views
        return Shard(path, views, places, (self._unit.samples, width), dtype, record is not None, name in BY_COLUMN)


def other_boxes(
    policy: ViewPolicy,
    partners: Partners | None,
    unit: UnitAddress,
    ids: NDArray[np.int64],
    sizes: tuple[NDArray[np.int32], NDArray[np.int32]],
    records: dict[int, Record],
    views: range | None = None,
) -> Iterator[tuple[int, int]]:
    """(teacher, view) of all records of a unit whose crop boxes are not those that this code gives.

    Args:
        partners: of the store, where its views are mixed.
        ids: int64 [n], the unit's samples.
        sizes: heights and widths int32 [samples of the file] of all images, in pixels.
        records: of the unit, by teacher.
        views: those to compare; default all of the unit.
    """
    for view in views or range(unit.view_start, unit.view_stop):
        digest = boxes_digest(crop_table(policy, partners, view, ids, *sizes))
        for teacher, record in records.items():
            if view < record.view_stop and record.boxes[view - unit.view_start] != digest:
                yield teacher, view
