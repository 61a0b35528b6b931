"""Lays out one .beton file (fields `image` and `label`) in order, as ffcv reads it.

ffcv's DatasetWriter is not used: an error in its workers hangs, and its layout differs from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from fastlabel.dataset.tables import (
    ALLOCATION,
    DESCRIPTION,
    FIELD_TYPES,
    HEADER,
    INTEGER,
    RGB_IMAGE,
    VERSION,
    row_type,
)

PAGE_SIZE = 8 << 20
MAX_PAGE_SIZE = 1 << 31  # the header keeps it in 32 bits
FIELDS = {"image": RGB_IMAGE, "label": INTEGER}
ROW = row_type(list(FIELDS.values()))


@dataclass
class BetonFile:
    """Samples are appended one after another; `finish` writes the header and the tables.

    No payload crosses a page. A payload larger than a page doubles the page size: what lies within pages of
    one size lies within pages of twice that size.
    """

    handle: BinaryIO
    max_samples: int
    page_size: int = PAGE_SIZE
    _rows: list[np.ndarray] = field(default_factory=list)
    _allocations: list[tuple[int, int, int]] = field(default_factory=list)
    _position: int = 0

    def __post_init__(self) -> None:
        tables = HEADER.itemsize + len(FIELDS) * DESCRIPTION.itemsize
        self._position = _align(tables + self.max_samples * ROW.itemsize, self.page_size)

    def append(self, image_field: np.ndarray, payload: np.ndarray, label: int) -> None:
        """One sample: its `image` field (IMAGE [1]), bytes, class id."""
        pointer = self._place(payload.nbytes)
        row = np.zeros(1, ROW)
        row["f0"] = image_field
        row["f0"]["data_ptr"] = pointer
        row["f1"] = label
        self._allocations.append((len(self._rows), pointer, payload.nbytes))
        self._rows.append(row)
        self.handle.seek(pointer)
        self.handle.write(payload.data)
        self._position = pointer + payload.nbytes

    def finish(self) -> int:
        """Write the tables and the header; returns the size of the file in bytes."""
        table_pointer = _align(self._position, self.page_size)  # readers take whole pages
        self.handle.seek(table_pointer)
        table = np.array(self._allocations, dtype=ALLOCATION)
        self.handle.write(table.tobytes())
        header = np.zeros(1, HEADER)
        header["version"] = VERSION
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self.page_size
        header["num_samples"] = len(self._rows)
        header["alloc_table_ptr"] = table_pointer
        self.handle.seek(0)
        # One row after another: np.concatenate leaves the bytes between fields as they were in memory.
        for part in (header, _describe_fields(), *self._rows):
            self.handle.write(part.tobytes())
        return table_pointer + table.nbytes

    def _place(self, size: int) -> int:
        while size > self.page_size:
            if self.page_size >= MAX_PAGE_SIZE:
                raise ValueError(f"{size} bytes: a sample of a .beton holds at most {MAX_PAGE_SIZE} bytes")
            self.page_size *= 2
        left_in_page = -self._position % self.page_size
        fits = size <= left_in_page or left_in_page == 0
        return self._position if fits else self._position + left_in_page


def _describe_fields() -> np.ndarray:
    type_ids = {kind: type_id for type_id, kind in FIELD_TYPES.items()}
    described = np.zeros(len(FIELDS), DESCRIPTION)
    for row, (name, kind) in zip(described, FIELDS.items(), strict=True):
        row["type_id"] = type_ids[kind]
        row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    return described


def _align(position: int, page_size: int) -> int:
    return -(-position // page_size) * page_size
