"""Reading files that something else may have put there: only regular ones, and no more bytes than expected."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotRegularFileError(OSError):
    """A folder, a FIFO or a device stands where a file was expected."""


class FileTooLargeError(OSError):
    """A file is larger than what it is read as can be."""


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, to read. A FIFO is not waited for, a device is not read.

    Raises:
        NotRegularFileError: it is something else.
        OSError: as of `os.open`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularFileError(f"{path} is not a regular file")
    return descriptor


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file of at most `most` bytes.

    Raises:
        FileTooLargeError: it has more; none of them were read.
        NotRegularFileError, OSError: as of `open_regular`.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise FileTooLargeError(f"{path} has {size:,} bytes, expected at most {most:,}")
        return file.read(size)
