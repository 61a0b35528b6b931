"""How far a run is, on stderr: a bar on a terminal; in a log a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts what a run has done. A context manager; nothing is written before something is to be told.

    Args:
        what: is being done, in a word or two.
        total: how many there are to do.
        unit: what is counted, in the plural.
        done: how many are done already.
        shown: False writes nothing.
        row: of several bars on one terminal, counted from 0.
        delay: seconds before a bar is drawn.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        shown: bool = True,
        row: int = 0,
        delay: float = 0.0,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first = self._done = done
        self._shown, self._note = shown, ""
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            self._bar = _bar(what, total, unit, done, row, delay)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            self._write(self._line(self._told - self._began))

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each counted once it has been dealt with."""
        with self:
            for item in items:
                yield item
                self.update()

    def note(self, text: str) -> None:
        """What a bar or a line ends with from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def message(self, text: str) -> None:
        """A line of its own, at once; a bar moves below it."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            self._write(text)

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._first) / seconds
        parts = [f"{self._what}: {self._done:,} of {self._total:,} {self._unit} ({self._percent()} %)"]
        if rate > 0:
            parts += [f"{rate:,.3g} a second" if rate < 100 else f"{rate:,.0f} a second"]
            parts += [f"about {duration(max(0, self._total - self._done) / rate)} left"]
        return ", ".join([*parts, self._note] if self._note else parts)

    def _percent(self) -> int:
        return 100 * self._done // self._total if self._total else 100

    def _write(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _bar(what: str, total: int, unit: str, done: int, row: int, delay: float) -> Any:
    from tqdm import tqdm

    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        initial=done,
        unit_scale=total >= 10_000,
        position=row or None,
        delay=delay,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
    )


def duration(seconds: float) -> str:
    """A time in words, to two of its units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
