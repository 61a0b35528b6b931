"""Processor time of a process and of all processes that it began, those that still run included."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")


def tree_cpu_seconds(process: int) -> float | None:
    """User and system seconds of a process tree so far, from Linux's /proc; None where there is no such folder.

    A child that has ended counts once it was waited for (man 5 proc_pid_stat).
    """
    if not (_PROC / "self" / "stat").exists():
        return None
    ticks, waiting = 0, [process]
    while waiting:
        folder = _PROC / str(waiting.pop())
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            # The name, in brackets, may hold blanks; of what follows it, fields 11 to 14 are the times.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            for task in (folder / "task").iterdir():
                waiting.extend(int(child) for child in (task / "children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")
