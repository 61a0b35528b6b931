"""Cases that each live in a process of their own, and are called in turns.

Loaders set the thread counts, the threading layer and the allocator of their whole process: beside each other in one,
they would be measured with settings that none of their users has.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from fastlabel.benchmarks.cpu_time import tree_cpu_seconds

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Isolated:
    """One case: ``make(*arguments)`` is called in a new process, and what it returns each time that this is called.

    ``make`` is a function of a module, and the arguments can be pickled. A context manager that ends the process.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        # Not forked: a copy of this process would have its threads' locks, and its settings.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        # Not daemonic: a case may have processes of its own.
        self._process = context.Process(target=_serve, args=(other, make, arguments))
        self._process.start()
        other.close()
        self.result: Any = None
        self._cpu_seconds: list[float | None] = []

    def __call__(self) -> Any:
        """Run the case once; what it returns is kept as ``result``. RuntimeError with the traceback if it fails.

        The first call waits until it is made: several can be made at the same time.
        """
        # Asked for first, so that what it took to make the case is not counted.
        before = self._tree_seconds()
        self.result = self._ask("run")
        after = self._tree_seconds()
        self._cpu_seconds.append(None if before is None or after is None else after - before)
        return self.result

    def cpu_seconds(self) -> float | None:
        """Processor time of a run, of its process and all below it: median, less the first run; None where unknown.

        Raises RuntimeError before the second run.
        """
        runs = self._cpu_seconds[1:]
        if not runs:
            raise RuntimeError("the first run warms up: run the case twice before its processor time is asked for")
        known = [seconds for seconds in runs if seconds is not None]
        return statistics.median(known) if len(known) == len(runs) else None

    def _tree_seconds(self) -> float | None:
        value: float | None = self._ask("cpu")
        return value

    def memory_bytes(self) -> int | None:
        """How far memory went up since ``make`` was called, at its peak, without pages of files; None where unknown."""
        value: int | None = self._ask("memory")
        return value

    def _ask(self, what: str) -> Any:
        try:
            self._connection.send(what)
            failed, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(f"the process of a case ended with exit code {self._process.exitcode}") from None
        if failed:
            raise RuntimeError(f"a case failed in its process:\n{value}")
        return value

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    before = _own_bytes("VmRSS")
    if _CLEAR.exists():
        _CLEAR.write_text("5")  # resets the high-water mark: man 5 proc
    try:
        case = make(*arguments)
        while True:
            asked = connection.recv()
            peak = _own_bytes("VmHWM")
            memory = None if peak is None or before is None else peak - before
            if asked == "cpu":
                connection.send((False, tree_cpu_seconds(os.getpid())))
            else:
                connection.send((False, memory if asked == "memory" else case()))
    except EOFError:  # the other side is done
        return
    except BaseException:
        connection.send((True, traceback.format_exc()))


def _own_bytes(name: str) -> int | None:
    """Bytes of this process, of all its pages less those of mapped files."""
    if not _STATUS.exists():
        return None
    values = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return (int(values[name].split()[0]) - int(values["RssFile"].split()[0])) * 1024
