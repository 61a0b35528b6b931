"""What has threads or locks, and begins anew in a forked process: none of its threads is there, and a lock that one of
them held is never released.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

SECONDS_TO_WAIT = 30.0  # for work that a fork must not cut in two


class Renewable(Protocol):
    """Can put new locks and queues in the place of its own."""

    def after_fork(self) -> None:
        """Called in the new process, before anything else runs there."""


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()
_held: list[threading.Lock] = []


def renew_after_fork(thing: Renewable) -> None:
    """Have `thing.after_fork()` called in every process that is forked while it lives.

    If it has a lock `busy`, a fork waits until that is free: compiled code that runs on many threads at that moment
    would leave its library's locks held in the new process.
    """
    _known.add(thing)


def _wait() -> None:
    locks = [lock for thing in list(_known) if (lock := getattr(thing, "busy", None)) is not None]
    _held.extend(lock for lock in locks if lock.acquire(timeout=SECONDS_TO_WAIT))


def _go_on() -> None:
    while _held:
        _held.pop().release()


def _renew() -> None:
    _held.clear()
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait, after_in_parent=_go_on, after_in_child=_renew)
