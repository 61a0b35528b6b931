"""An FFCV dataset file (.beton) as fastlabel needs it: checked, with sizes, labels and a fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset import ffcv_api as ffcv
from fastlabel.errors import DatasetError
from fastlabel.system.arguments import one_of
from fastlabel.system.progress import Progress

IMAGE_FIELD, LABEL_FIELD = "image", "label"
HASH_CHUNK = 256  # samples hashed per task


def class_names_path(path: Path) -> Path:
    """Where ``write-dataset`` keeps the class names of a .beton file."""
    return path.with_name(path.name + ".json")


@dataclass(frozen=True)
class Beton:
    """One .beton file with the fields ``image`` and ``label``, opened by :meth:`open`.

    Attributes:
        reader: ffcv's own reader of the file.
        index: ffcv's record [N] of each image: mode, width, height, data_ptr.
        heights, widths: int32 [N], pixels of each stored image.
        targets: int64 [N], the hard label of each sample.
        offsets, nbytes: int64 [N], where each image's bytes lie in the file.
        class_names: kept by ``write-dataset`` beside the file, else None.
    """

    path: Path
    reader: Any = field(repr=False)
    index: NDArray[Any] = field(repr=False)
    heights: NDArray[np.int32] = field(repr=False)
    widths: NDArray[np.int32] = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    nbytes: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] | None = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Beton) -> Beton:
        """Read the headers of a .beton file and check that the file is whole.

        Raises:
            DatasetError: no such file, not FFCV's format, truncated, without the two fields, or with labels that are
                no classes.
        """
        if isinstance(path, Beton):
            return path
        one_of("beton", path, (str, os.PathLike), "a path or a Beton")
        path = Path(path)
        _check_header(path)
        reader = _read(path)
        image, label = _columns(path, reader)
        offsets = image["data_ptr"].astype(np.int64)
        names = _read_class_names(path)
        _check_targets(path, label, names)
        return cls(
            path,
            reader,
            image.copy(),
            image["height"].astype(np.int32),
            image["width"].astype(np.int32),
            label.astype(np.int64),
            offsets,
            _payload_sizes(path, reader, offsets),
            names,
        )

    @property
    def num_samples(self) -> int:
        return len(self.targets)

    @property
    def num_classes(self) -> int:
        """How many classes: the names kept beside the file, else the largest label plus one."""
        return len(self.class_names) if self.class_names else int(self.targets.max()) + 1

    @property
    def common_size(self) -> int | None:
        """The side in pixels when every image is a square of one size, else None."""
        side = int(self.heights[0])
        same = (self.heights == side).all() and (self.widths == side).all()
        return side if same else None

    @cached_property
    def _map(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, mode="r")

    def file_bytes(self) -> NDArray[np.uint8]:
        """All bytes of the file, uint8, mapped into memory."""
        return self._map

    def payload(self, sample: int) -> bytes:
        """The stored bytes of one image: a JPEG, or raw RGB rows."""
        start = int(self.offsets[sample])
        return bytes(self._map[start : start + int(self.nbytes[sample])])

    def fingerprint(self, progress: bool = False, trust_cache: bool = True) -> str:
        """SHA-256 (hex) of sizes, labels and image bytes in sample order, wherever they lie in the file.

        The whole file is read once; the result is kept in ``<file>.fingerprint.json`` beside it and reused while
        the file's size and modification time stay the same.
        """
        stat = self.path.stat()
        key = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        kept = self.path.with_name(self.path.name + ".fingerprint.json")
        if trust_cache and (known := _read_json(kept)) and known.get("file") == key and "sha256" in known:
            return str(known["sha256"])
        digest = self._hash(progress)
        _write_if_possible(kept, {"file": key, "sha256": digest})
        return digest

    def _hash(self, progress: bool) -> str:
        total = hashlib.sha256(b"fastlabel dataset 1\n")
        for values, dtype in ((self.heights, "<i4"), (self.widths, "<i4"), (self.targets, "<i8")):
            total.update(values.astype(dtype).tobytes())
        starts = range(0, self.num_samples, HASH_CHUNK)
        with ThreadPoolExecutor() as pool:
            chunks: Iterable[bytes] = pool.map(self._hash_payloads, starts)
            # Small files are done before a bar would be of use.
            for chunk in Progress("fingerprint", len(starts), "chunks", shown=progress, delay=2).over(chunks):
                total.update(chunk)
        return total.hexdigest()

    def _hash_payloads(self, start: int) -> bytes:
        stop = min(start + HASH_CHUNK, self.num_samples)
        ranges = zip(self.offsets[start:stop], self.nbytes[start:stop], strict=True)
        return b"".join(hashlib.sha256(self._map[at : at + size].data).digest() for at, size in ranges)


def _check_header(path: Path) -> None:
    if not path.is_file():
        raise DatasetError(f"no dataset file at {path}; make one with `fastlabel write-dataset`")
    header = np.fromfile(path, ffcv.HeaderType, count=1)
    if not len(header) or header[0]["version"] != ffcv.CURRENT_VERSION:
        found = f"version {header[0]['version']}" if len(header) else f"{path.stat().st_size} bytes"
        raise DatasetError(f"{path} is not an FFCV .beton file of version {ffcv.CURRENT_VERSION}: it has {found}")
    size, table = path.stat().st_size, int(header[0]["alloc_table_ptr"])
    entry, samples = ffcv.ALLOC_TABLE_TYPE.itemsize, int(header[0]["num_samples"])
    if samples == 0:
        raise DatasetError(f"{path} holds no samples")
    if table == 0 or table + entry * samples > size:
        raise DatasetError(
            f"{path} is truncated or was never finished: {size} bytes for {samples} samples with an allocation "
            f"table at byte {table}; write it again"
        )


def _read(path: Path) -> Any:
    try:
        return ffcv.Reader(str(path))
    except OSError:
        raise
    except Exception as error:  # FFCV checks nothing: whatever numpy or json trip over
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"FFCV cannot read the fields of {path} ({reason}); write it again") from error


def _columns(path: Path, reader: Any) -> tuple[Any, Any]:
    names = list(reader.field_names)
    for name, handler in ((IMAGE_FIELD, ffcv.RGBImageField), (LABEL_FIELD, ffcv.IntField)):
        if name not in names or not isinstance(reader.handlers[name], handler):
            raise DatasetError(
                f"{path} has the fields {names}; fastlabel needs {IMAGE_FIELD!r} (RGBImageField) and "
                f"{LABEL_FIELD!r} (IntField), as FFCV's ImageNet recipe writes them"
            )
    image, label = (reader.metadata[f"f{names.index(name)}"] for name in (IMAGE_FIELD, LABEL_FIELD))
    return image, label


def _payload_sizes(path: Path, reader: Any, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    table = reader.alloc_table
    # Every field but a number has a payload for each sample.
    fields = sum(not isinstance(handler, (ffcv.IntField, ffcv.FloatField)) for handler in reader.handlers.values())
    table_bytes = path.stat().st_size - int(reader.header["alloc_table_ptr"])
    if table_bytes != fields * len(offsets) * table.itemsize:
        raise DatasetError(
            f"{path} is truncated or damaged: its allocation table has {table_bytes} bytes, not {table.itemsize} for "
            f"each of {fields} x {len(offsets)} payloads; write it again"
        )
    pointers = table["ptr"].astype(np.int64)
    # An empty value of another field has the pointer of what follows it: the longest of them is the image.
    order = np.lexsort((table["size"], pointers))
    at = order[np.searchsorted(pointers, offsets, side="right", sorter=order) - 1]
    sizes = table["size"].astype(np.int64)[at]
    bad = np.flatnonzero((pointers[at] != offsets) | (offsets + sizes > int(reader.header["alloc_table_ptr"])))
    if bad.size:
        raise DatasetError(
            f"{path} is damaged: the image of sample {bad[0]} ({bad.size} samples in all) is not in the file's "
            "allocation table; write it again"
        )
    return sizes


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write_if_possible(path: Path, value: dict[str, Any]) -> None:
    """Keep a result that can be computed again: a read-only folder is no error."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(value) + "\n")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()


def _check_targets(path: Path, targets: NDArray[np.int64], names: tuple[str, ...] | None) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        raise DatasetError(f"{path} has the label {low}; labels must be class numbers from 0")
    if names and high >= len(names):
        raise DatasetError(
            f"{path} has the label {high}, but {class_names_path(path)} names {len(names)} classes; correct that file"
        )


def _read_class_names(path: Path) -> tuple[str, ...] | None:
    kept = _read_json(class_names_path(path))
    names = kept.get("classes") if kept else None
    return tuple(map(str, names)) if names and isinstance(names, list) else None
