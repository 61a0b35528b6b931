"""Stopping on request: SIGINT and SIGTERM are noted, and obeyed where nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastlabel.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked a run to stop; made by `stop_requests`."""

    def __init__(self, patient: bool = True) -> None:
        self.signum: int | None = None
        self.patient = patient

    @property
    def requested(self) -> bool:
        return self.signum is not None

    def check(self, how_to_go_on: str) -> None:
        """Raise Interrupted, whose message ends in `how_to_go_on`, when a stop was asked for."""
        if self.signum is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.signum).name}: {how_to_go_on}", self.signum)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Work that is worth finishing: a first signal is noted meanwhile, and obeyed by the next `check`."""
        before, self.patient = self.patient, True
        try:
            yield
        finally:
            self.patient = before


@contextmanager
def stop_requests(notice: str, patient: bool = True) -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM, and write `notice` to stderr; the next one raises KeyboardInterrupt.

    Without `patient` the first one does so too, but for work inside of `StopRequest.deferred`. To be used in the
    main thread. A signal that is ignored, as SIGINT is in a background job, stays ignored.

    Raises:
        Interrupted: at the end of a block that ended well, when a stop was asked for after its last `check`: whoever
            asked wants what comes after it no more, and an exit code that says so.
    """
    stop = StopRequest(patient)

    def handle(signum: int, frame: FrameType | None) -> None:
        at_once = stop.requested or not stop.patient
        stop.signum = signum
        if at_once:
            raise KeyboardInterrupt
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{signal.Signals(signum).name}: {notice}\n".encode())

    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    try:
        for signum, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(signum, handle)
        yield stop
        stop.check("all that it was to stop was done by then")
    finally:
        for signum, handler in before.items():
            # None: installed by something that is not Python, which cannot be put back from here.
            if handler is not None:
                signal.signal(signum, handler)
