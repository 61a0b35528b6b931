"""An FFCV dataset file (.beton) as fastlabel needs it: checked, with sizes, labels and a fingerprint."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.class_names import class_names_path, read_class_names
from fastlabel.dataset.fingerprint import KeptFingerprint, compute_fingerprint
from fastlabel.dataset.tables import INTEGER, RGB_IMAGE, Tables, read_tables
from fastlabel.dataset.watched_file import WatchedFile
from fastlabel.errors import DatasetError
from fastlabel.system.arguments import one_of
from fastlabel.system.regular_files import NotRegularFileError

logger = logging.getLogger(__name__)

IMAGE_FIELD, LABEL_FIELD = "image", "label"


@dataclass(frozen=True)
class Beton:
    """One .beton file with the fields ``image`` and ``label``, opened by :meth:`open`.

    Attributes:
        file: the open file.
        tables: what the file says of its samples.
        index: the row [N] of each image: mode, width, height, data_ptr.
        heights, widths: int32 [N], pixels of each stored image.
        targets: int64 [N], the hard label of each sample.
        offsets, nbytes: int64 [N], where each image's bytes lie in the file.
        class_names: kept by ``write-dataset`` beside the file, else None.
    """

    path: Path
    file: WatchedFile = field(repr=False)
    tables: Tables = field(repr=False)
    index: NDArray[Any] = field(repr=False)
    heights: NDArray[np.int32] = field(repr=False)
    widths: NDArray[np.int32] = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    nbytes: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] | None = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Beton) -> Beton:
        """Read the tables of a .beton file and check that the file is whole.

        Raises:
            DatasetError: no such file, not FFCV's format, truncated, without the two fields, or with labels that are
                no classes.
        """
        if isinstance(path, Beton):
            return path
        one_of("beton", path, (str, os.PathLike), "a path or a Beton")
        path = Path(path)
        file = _open(path)
        tables = read_tables(file)
        image, label = _columns(path, tables)
        names = read_class_names(path)
        _check_targets(path, label, names)
        _check_sizes(path, image)
        return cls(
            path,
            file,
            tables,
            image.copy(),
            image["height"].astype(np.int32),
            image["width"].astype(np.int32),
            label.astype(np.int64),
            image["data_ptr"].astype(np.int64),
            _payload_sizes(path, tables, image["data_ptr"]),
            names,
        )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Beton.open, (self.path,)

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

    def payload(self, sample: int) -> bytes:
        """The stored bytes of one image: a JPEG, or raw RGB rows."""
        return self.file.read(int(self.offsets[sample]), int(self.nbytes[sample]))

    def fingerprint(self, progress: bool = False, trust_cache: bool = True) -> str:
        """SHA-256 (hex) of sizes, labels and image bytes in sample order, wherever they lie in the file.

        The whole file is read once; the result is kept in ``<file>.fingerprint.json`` beside it and reused while
        the file and its tables stay the same.

        Raises:
            DatasetError: the file changed since it was opened.
        """
        if trust_cache and self.file.fingerprint is not None:
            self.check_unchanged()
            return self.file.fingerprint
        kept = KeptFingerprint(self.file, self.tables.sha256)
        digest = kept.read() if trust_cache else None
        if digest is None:
            digest = self._hash(progress)
            self.check_unchanged()
            kept.write(digest)
        self.file.fingerprint = digest
        return digest

    def check_unchanged(self) -> None:
        """Does nothing while the file is the one that was opened. One system call, unless it was touched.

        Raises:
            DatasetError: it was written to or cut short.
        """
        now = self.file.state_now()
        if now == self.file.state:
            return
        same_times = (now.nbytes, now.mtime_ns) == (self.file.state.nbytes, self.file.state.mtime_ns)
        # A link, a chmod and a move set the ctime. So does whoever writes to the file and then sets its time back.
        if not (same_times and self._has_same_content()):
            raise DatasetError(
                f"{self.path} was changed while it was open: start again, with labels that were made of what it is now"
            )
        self.file.state = now

    def _has_same_content(self) -> bool:
        """Whether tables and images are what they were; of images that were never hashed, only the tables are known."""
        known = self.file.fingerprint
        if read_tables(self.file).sha256 != self.tables.sha256:
            return False
        if known is None:
            return True
        logger.warning("%s was touched while it was open: its %d images are hashed again", self.path, self.num_samples)
        return self._hash(progress=False) == known

    def _hash(self, progress: bool) -> str:
        columns = ((self.heights, "<i4"), (self.widths, "<i4"), (self.targets, "<i8"))
        return compute_fingerprint(self.file, columns, self.offsets, self.nbytes, progress)


def _open(path: Path) -> WatchedFile:
    try:
        return WatchedFile(path)
    except (FileNotFoundError, NotADirectoryError, NotRegularFileError) as error:
        raise DatasetError(f"no dataset file at {path}; make one with `fastlabel write-dataset`") from error


def _columns(path: Path, tables: Tables) -> tuple[NDArray[Any], NDArray[np.int64]]:
    for name, kind in ((IMAGE_FIELD, RGB_IMAGE), (LABEL_FIELD, INTEGER)):
        if tables.fields.get(name) != kind:
            raise DatasetError(
                f"{path} has the fields {list(tables.fields)}; fastlabel needs {IMAGE_FIELD!r} (RGBImageField) and "
                f"{LABEL_FIELD!r} (IntField), as FFCV's ImageNet recipe writes them"
            )
    return tables.column(IMAGE_FIELD), tables.column(LABEL_FIELD)


def _payload_sizes(path: Path, tables: Tables, offsets: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bytes of each image, int64 [N]. Compared as unsigned numbers: a pointer may be anything."""
    pointers, sizes = tables.allocations["ptr"], tables.allocations["size"]
    # An empty value of another field has the pointer of what follows it: the longest of them is the image.
    order = np.lexsort((sizes, pointers))
    at = order[np.searchsorted(pointers, offsets, side="right", sorter=order) - 1]
    end = np.uint64(tables.payloads_end)
    bad = (pointers[at] != offsets) | (offsets > end)
    bad |= sizes[at] > np.where(bad, np.uint64(0), end - offsets)
    if bad.any():
        raise DatasetError(
            f"{path} is damaged: the image of sample {np.flatnonzero(bad)[0]} ({bad.sum()} samples in all) is not in "
            "the file's allocation table; write it again"
        )
    return sizes[at].astype(np.int64)


def _check_targets(path: Path, targets: NDArray[np.int64], names: tuple[str, ...] | None) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        raise DatasetError(f"{path} has the label {low}; labels must be class numbers from 0")
    if names and high >= len(names):
        raise DatasetError(
            f"{path} has the label {high}, but {class_names_path(path)} names {len(names)} classes; correct that file"
        )


def _check_sizes(path: Path, image: NDArray[Any]) -> None:
    empty = np.flatnonzero((image["height"] == 0) | (image["width"] == 0))
    if empty.size:
        raise DatasetError(
            f"{path} is damaged: the image of sample {empty[0]} ({empty.size} samples in all) has no pixels; "
            "write it again"
        )
