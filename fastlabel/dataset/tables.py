"""The tables of a .beton file, version 2, read with NumPy alone: importing ffcv takes seconds.

    header | one description for each field | one row for each sample | payloads | one allocation for each payload

All numbers are little-endian. A row holds numbers themselves, and of everything else the byte at which its payload
begins; only the allocations say how long that payload is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastlabel.dataset.watched_file import WatchedFile
from fastlabel.errors import DatasetError

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
DESCRIPTION = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
JPEG, RAW = 0, 1  # modes of an image
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class FieldType:
    """A kind of field: its name in ffcv, what a sample's row holds of it, and whether it has payloads."""

    name: str
    row: DTypeLike
    has_payload: bool


FIELD_TYPES = {
    0: FieldType("FloatField", "<f8", False),
    1: FieldType("IntField", "<i8", False),
    2: FieldType("RGBImageField", IMAGE, True),
    3: FieldType("BytesField", _BYTES, True),
    4: FieldType("NDArrayField", "<u8", True),
    5: FieldType("JSONField", _BYTES, True),
    6: FieldType("TorchTensorField", "<u8", True),
}
INTEGER, RGB_IMAGE = FIELD_TYPES[1], FIELD_TYPES[2]


def row_type(fields: list[FieldType]) -> np.dtype[Any]:
    """The row of a sample: f0, f1, ... in the order of the fields, aligned as a C struct."""
    return np.dtype([("", field.row) for field in fields], align=True)


@dataclass(frozen=True)
class Tables:
    """What a file says of its samples.

    Attributes:
        fields: the kind of each field, by its name.
        rows: row_type [N].
        allocations: ALLOCATION [payloads], in any order.
        payloads_end: byte at which the last payload must have ended.
        sha256: hex digest of all tables.
    """

    fields: dict[str, FieldType]
    rows: NDArray[Any]
    allocations: NDArray[Any]
    payloads_end: int
    sha256: str

    def column(self, name: str) -> NDArray[Any]:
        """What the rows hold of one field: [N]."""
        values: NDArray[Any] = self.rows[f"f{list(self.fields).index(name)}"]
        return values


def read_tables(file: WatchedFile) -> Tables:
    """The tables of an open file, whose sizes are checked against the file's before anything is read.

    Raises:
        DatasetError: it is no .beton file, truncated, or has fields that ffcv does not define.
    """
    header = _read_header(file)
    num_samples, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    described = _read_array(file, DESCRIPTION, int(header["num_fields"]), HEADER.itemsize, table)
    fields = _fields(file, described)
    rows_at = HEADER.itemsize + described.nbytes
    rows = _read_array(file, row_type(list(fields.values())), num_samples, rows_at, table)
    count = num_samples * sum(field.has_payload for field in fields.values())
    if (found := file.state.nbytes - table) != count * ALLOCATION.itemsize:
        raise DatasetError(
            f"{file.path} is truncated or damaged: its allocation table has {found} bytes, not {ALLOCATION.itemsize} "
            f"for each of {count} payloads; write it again"
        )
    allocations = _read_array(file, ALLOCATION, count, table, file.state.nbytes)
    if count and int(allocations["ptr"].min()) < rows_at + rows.nbytes:
        raise DatasetError(f"{file.path} is damaged: a payload begins inside its tables; write it again")
    digest = hashlib.sha256()
    for part in (header, described, rows, allocations):
        digest.update(part.tobytes())
    return Tables(fields, rows, allocations, table, digest.hexdigest())


def _read_header(file: WatchedFile) -> Any:
    size = file.state.nbytes
    header = np.frombuffer(file.read(0, HEADER.itemsize), HEADER)[0] if size >= HEADER.itemsize else None
    if header is None or header["version"] != VERSION:
        found = f"{size} bytes" if header is None else f"version {header['version']}"
        raise DatasetError(f"{file.path} is not an FFCV .beton file of version {VERSION}: it has {found}")
    samples, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if samples == 0:
        raise DatasetError(f"{file.path} holds no samples")
    if header["num_fields"] == 0:
        raise DatasetError(f"{file.path} is damaged: its samples have no fields; write it again")
    if table == 0 or table + ALLOCATION.itemsize * samples > size:
        raise DatasetError(
            f"{file.path} is truncated or was never finished: {size} bytes for {samples} samples with an allocation "
            f"table at byte {table}; write it again"
        )
    return header


def _read_array(file: WatchedFile, dtype: np.dtype[Any], count: int, start: int, end: int) -> NDArray[Any]:
    if start + count * dtype.itemsize > end:
        raise DatasetError(f"{file.path} is truncated or damaged: its tables do not fit into it; write it again")
    return np.frombuffer(file.read(start, count * dtype.itemsize), dtype)


def _fields(file: WatchedFile, described: NDArray[Any]) -> dict[str, FieldType]:
    fields = {}
    for type_id, name in zip(described["type_id"].tolist(), described["name"], strict=True):
        text = name.tobytes().partition(b"\0")[0].decode("ascii", errors="backslashreplace")
        if type_id not in FIELD_TYPES:
            raise DatasetError(
                f"cannot read the fields of {file.path}: {text!r} is of type {type_id}, which ffcv does not define; "
                "write the file without it"
            )
        fields[text] = FIELD_TYPES[type_id]
    if len(fields) != len(described):
        raise DatasetError(f"cannot read the fields of {file.path}: two have the same name; write it again")
    return fields
