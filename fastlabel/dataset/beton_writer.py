"""Lays out one .beton file (fields `image` and `label`) in order, by ffcv's own type definitions.

ffcv's DatasetWriter is not used: an error in its workers hangs, and its layout differs from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from fastlabel.dataset.ffcv_api import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    IntField,
    RGBImageField,
    get_metadata_type,
)

PAGE_SIZE = 8 << 20
MAX_PAGE_SIZE = 1 << 31  # the header keeps it in 32 bits
FIELDS = {"image": RGBImageField(), "label": IntField()}
METADATA_TYPE = get_metadata_type(list(FIELDS.values()))
IMAGE_TYPE = FIELDS["image"].metadata_type


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
        tables = HeaderType.itemsize + len(FIELDS) * FieldDescType.itemsize
        self._position = _align(tables + self.max_samples * METADATA_TYPE.itemsize, self.page_size)

    def append(self, image_field: np.ndarray, payload: np.ndarray, label: int) -> None:
        """One sample: its `image` field as RGBImageField encodes it (IMAGE_TYPE [1]), bytes, class id."""
        pointer = self._place(payload.nbytes)
        row = np.zeros(1, METADATA_TYPE)
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
        table = np.array(self._allocations, dtype=ALLOC_TABLE_TYPE)
        self.handle.write(table.tobytes())
        header = np.zeros(1, HeaderType)
        header["version"] = CURRENT_VERSION
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self.page_size
        header["num_samples"] = len(self._rows)
        header["alloc_table_ptr"] = table_pointer
        self.handle.seek(0)
        for part in (header, _describe_fields(), np.concatenate(self._rows)):
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
    type_ids = {handler: type_id for type_id, handler in TYPE_ID_HANDLER.items()}
    described = np.zeros(len(FIELDS), FieldDescType)
    for row, (name, handler) in zip(described, FIELDS.items(), strict=True):
        row["type_id"] = type_ids[type(handler)]
        row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        row["arguments"][:] = handler.to_binary()[0]
    return described


def _align(position: int, page_size: int) -> int:
    return -(-position // page_size) * page_size
