"""Files and folders that are there whole, on disk, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from fastlabel.errors import StoreError

PARTIAL = ".partial"


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a small file at once, and only return when it is on disk."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    fsync(path.parent)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A folder to fill: at ``path``, whole and durable, when the block ends well; gone when it does not.

    Folders that killed processes left when they were making this one are removed first.

    Raises:
        StoreError: something exists at that path.
    """
    if os.path.lexists(path):
        raise StoreError(f"{path} exists already; choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # Process ids are not unique among containers that share a folder.
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
        fsync_tree(partial)
        _rename_folder(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _rename_folder(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"{path} was made by another process meanwhile; try again") from error
        raise
    fsync(path.parent)


def _remove_abandoned(path: Path) -> None:
    for left in path.parent.glob(f"{escape(path.name)}.*{PARTIAL}"):
        owner = left.name[len(path.name) + 1 : -len(PARTIAL)]
        pid = owner.partition("-")[0]
        if pid.isdecimal() and not _is_running(int(pid)) and _is_unlocked(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_unlocked(folder: Path) -> bool:
    # On a shared file system the owner may be a process of another machine, whose lock is seen here.
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def replace_folder(partial: Path, path: Path) -> None:
    """Make a folder durable and put it where a cut-short attempt may have left another one."""
    fsync_tree(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    fsync(path.parent)


def fsync_tree(root: Path) -> None:
    """Make every file and folder below ``root`` durable."""
    for path in [root, *root.rglob("*")]:
        fsync(path)


def fsync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise StoreError(f"{path} vanished while it was written; is another process using this store?") from error
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
