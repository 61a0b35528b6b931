"""Files and folders that are there whole, on disk, or not at all.

Both are made as `NAME.partial`, held locked by who makes them, and get their name when they are whole and durable. The
lock dies with its process: what a killed one left is nobody's, and the next who makes NAME begins with it, emptied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastlabel.errors import FastlabelError, StoreError

PARTIAL = ".partial"


@contextmanager
def new_file(
    path: Path, *, replace: bool = False, wait: bool = False, error: type[FastlabelError] = StoreError
) -> Iterator[BinaryIO]:
    """A file to write: at `path`, whole and durable, when the block ends well; gone when it does not.

    Args:
        replace: whether it may take the place of another file.
        wait: whether to wait for another process that is making it, instead of refusing.
        error: what is raised for a path that cannot be taken.

    Raises:
        StoreError, or `error`: something exists at that path, or another process is making it.
        OSError: names the file.
    """
    with _making(path, _open_file, replace, wait, error) as (partial, handle):
        os.truncate(handle, 0)
        with open(handle, "r+b", closefd=False) as file:
            yield file
            file.flush()
        os.fsync(handle)
        os.replace(partial, path)


@contextmanager
def new_folder(path: Path, *, replace: bool = False, error: type[FastlabelError] = StoreError) -> Iterator[Path]:
    """A folder to fill: at `path`, whole and durable, when the block ends well; gone when it does not.

    Args and Raises as of `new_file`. A folder that it replaces is gone for a moment before.
    """
    with _making(path, _open_folder, replace, False, error) as (partial, _):
        for left in partial.iterdir():
            _remove(left)
        yield partial
        fsync_tree(partial)
        if replace:
            _remove(path)
        try:
            os.rename(partial, path)
        except OSError as problem:
            if problem.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise error(f"{path} was made by another process meanwhile; try again") from problem
            raise


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a small file at once (text as UTF-8), and only return when it is on disk."""
    with new_file(path, replace=True, wait=True) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_if_possible(path: Path, content: str | bytes) -> None:
    """As `write_file`, for what can be computed again: where nothing can be written, nothing is."""
    with contextlib.suppress(OSError, StoreError):
        write_file(path, content)


@contextmanager
def _making(
    path: Path, open_partial: Callable[[Path], int], replace: bool, wait: bool, error: type[FastlabelError]
) -> Iterator[tuple[Path, int]]:
    """NAME.partial, and a handle by which it is held."""

    def check_free() -> None:
        if not replace and os.path.lexists(path):
            raise error(f"{path} exists already; choose another path")

    check_free()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    handle = _hold(partial, open_partial, wait)
    if handle is None:
        raise error(f"another process is writing {path}: wait for it, or choose another name")
    try:
        check_free()  # now that nobody else is at it
        yield partial, handle
        fsync(path.parent)
    except BaseException as problem:
        if _is_at(handle, partial):
            _remove(partial)
        if isinstance(problem, OSError) and problem.filename is None:
            problem.filename = str(path)  # a write to a full disk does not say where
        raise
    finally:
        os.close(handle)


def _hold(partial: Path, open_partial: Callable[[Path], int], wait: bool) -> int | None:
    """A locked handle of a new or an abandoned file or folder; None where another process holds it."""
    while True:
        handle = open_partial(partial)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(handle, partial):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its maker renamed or removed it between our opening and our lock


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _open_file(partial: Path) -> int:
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _open_folder(partial: Path) -> int:
    partial.mkdir(exist_ok=True)
    return os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync_tree(root: Path) -> None:
    """Make every file and folder below ``root`` durable."""
    for path in [root, *root.rglob("*")]:
        fsync(path)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, durable. StoreError where it vanished."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise StoreError(f"{path} vanished while it was written; is another process using this store?") from error
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
