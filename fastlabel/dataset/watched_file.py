"""A file that stays open and is read by position: it notices when it is cut short or written to."""

from __future__ import annotations

import os
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

from fastlabel.errors import DatasetError
from fastlabel.system.regular_files import open_regular


@dataclass(frozen=True)
class FileState:
    """What tells one content of a file from another one without reading it. Times in nanoseconds."""

    inode: int
    nbytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, descriptor: int) -> FileState:
        """The state of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class WatchedFile:
    """A regular file, open for reading until it is collected.

    It is not mapped into memory: reading a mapped file that was cut short kills the process.

    Attributes:
        descriptor: for readers of their own; any number of threads may use it with `pread`.
        state: as it was when it was opened, or when its content was last found to be the same.
        fingerprint: of what it holds, once somebody has computed it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = open_regular(path)
        weakref.finalize(self, os.close, self.descriptor)
        self.state = FileState.of(self.descriptor)
        self.fingerprint: str | None = None

    def read(self, start: int, count: int) -> bytes:
        """The bytes [start, start + count). DatasetError where the file ends before."""
        parts = []
        while count:
            part = os.pread(self.descriptor, count, start)
            if not part:
                raise DatasetError(
                    f"{self.path} was cut short while it was open: it ends before byte {start + count:,}"
                )
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)

    def state_now(self) -> FileState:
        """Its state at this moment: one system call."""
        return FileState.of(self.descriptor)
