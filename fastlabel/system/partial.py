"""A file that is written under a temporary name, held by one writer, and appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastlabel.errors import DatasetError


@contextlib.contextmanager
def whole_or_nothing(out: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A new file, renamed to `out` when the block ends well and removed when it does not.

    The temporary name `OUT.partial` is always the same, so that a rerun clears what a killed run left. Raises
    DatasetError when `out` exists (unless `replace`) or another process is writing it.
    """
    temporary = out.with_name(out.name + ".partial")
    with open(temporary, "ab") as handle:
        _lock(handle, temporary, out)
        try:
            if out.exists() and not replace:
                raise DatasetError(f"{out} exists: choose another name, or pass --force to replace it")
            handle.truncate(0)
            with open(temporary, "r+b") as seekable:
                yield seekable
                seekable.flush()
                os.fsync(seekable.fileno())
            os.replace(temporary, out)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(out.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(handle: BinaryIO, temporary: Path, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(handle.fileno()).st_ino == os.stat(temporary).st_ino
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if not mine:  # held, or renamed or removed by its writer between our open and our lock
        raise DatasetError(f"another process is writing {out}: wait for it, or choose another name")
