"""When a run saves and when it stops: between two steps, on all ranks alike."""

from __future__ import annotations

import math
import time

from fastlabel.system.ranks import Ranks
from fastlabel.system.signals import StopRequest

SECONDS_BETWEEN_SAVES = 60.0
SHARE_OF_SAVES = 0.05  # of the time, at most, where a save takes long
SECONDS_BETWEEN_AGREEMENTS = 1.0
STEPS_BETWEEN_AGREEMENTS = 50  # at most


class Interruptions:
    """What rank 0's clock and a signal to any rank ask for.

    Several ranks agree on it about once a second, not at every step, and at the same steps: how many there are until
    the next time is agreed on too. A process alone looks at every step.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.stop = StopRequest()
        self._ranks = ranks
        self._saved_at, self._pause = time.monotonic(), SECONDS_BETWEEN_SAVES
        self._asked_at, self._steps, self._every = time.monotonic(), 0, 1

    def asked(self, at_once: bool = False) -> tuple[int | None, bool]:
        """A signal to obey, and whether to save; with `at_once` all ranks are asked in any case."""
        self._steps += 1
        if self._steps < self._every and not at_once:
            return None, False
        now = time.monotonic()
        step_ms = math.ceil(1000 * (now - self._asked_at) / self._steps)
        signum, save, step_ms = self._ranks.largest(self.stop.signum or 0, int(self.save_is_due), step_ms)
        self._asked_at, self._steps = now, 0
        if not self._ranks.alone:
            steps = int(1000 * SECONDS_BETWEEN_AGREEMENTS / max(1, step_ms))
            self._every = min(max(1, steps), STEPS_BETWEEN_AGREEMENTS)
        return signum or None, bool(save)

    @property
    def save_is_due(self) -> bool:
        """Whether rank 0, being this one, has not saved for long."""
        return self._ranks.first and time.monotonic() - self._saved_at > self._pause

    def saved(self, seconds: float) -> None:
        """A save is done, which took so long."""
        self._saved_at = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_SAVES, seconds / SHARE_OF_SAVES)
