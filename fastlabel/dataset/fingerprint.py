"""The fingerprint of a dataset: SHA-256 of what its samples are, wherever they lie in the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.watched_file import WatchedFile
from fastlabel.system.atomic_files import write_if_possible
from fastlabel.system.progress import Progress
from fastlabel.system.regular_files import read_regular

HASH_CHUNK = 256  # samples hashed per task
MOST_BYTES = 1 << 16


def compute_fingerprint(
    file: WatchedFile,
    columns: Iterable[tuple[NDArray[Any], str]],
    offsets: NDArray[np.int64],
    nbytes: NDArray[np.int64],
    progress: bool,
) -> str:
    """Hex digest of columns (values [N] and the type they are hashed as) and of each sample's payload, in order."""
    total = hashlib.sha256(b"fastlabel dataset 1\n")
    for values, dtype in columns:
        total.update(values.astype(dtype).tobytes())

    def hash_payloads(start: int) -> bytes:
        rows = slice(start, start + HASH_CHUNK)
        ranges = zip(offsets[rows].tolist(), nbytes[rows].tolist(), strict=True)
        return b"".join(hashlib.sha256(file.read(at, size)).digest() for at, size in ranges)

    starts = range(0, len(offsets), HASH_CHUNK)
    with ThreadPoolExecutor() as pool:
        chunks: Iterable[bytes] = pool.map(hash_payloads, starts)
        # Small files are done before a bar would be of use.
        for chunk in Progress("fingerprint", len(starts), "chunks", shown=progress, delay=2).over(chunks):
            total.update(chunk)
    return total.hexdigest()


class KeptFingerprint:
    """`FILE.fingerprint.json` beside a .beton file: good while that file's state and its tables are as they were.

    Size and modification time alone would not do: `cp -p` and rsync set them.
    """

    def __init__(self, file: WatchedFile, tables_sha256: str) -> None:
        self._path = fingerprint_path(file.path)
        self._key = {"file": file.state.to_dict(), "tables": tables_sha256}

    def read(self) -> str | None:
        """The fingerprint, or None: nothing is kept, of another file, or broken."""
        try:
            known = json.loads(read_regular(self._path, MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(known, dict) or {name: known.get(name) for name in self._key} != self._key:
            return None
        value = known.get("sha256")
        return value if isinstance(value, str) else None

    def write(self, sha256: str) -> None:
        """Keep it. A folder that cannot be written is no error: it can be computed again."""
        write_if_possible(self._path, json.dumps({**self._key, "sha256": sha256}) + "\n")


def fingerprint_path(path: Path) -> Path:
    """Where the fingerprint of a .beton file is kept."""
    return path.with_name(path.name + ".fingerprint.json")
