"""What changes from epoch to epoch in the use of a label: its temperature, and whether it is used at all.

Both are functions of the epoch alone, so a run that is resumed needs no state of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastlabel.errors import InputError
from fastlabel.labels.choices import PHASES
from fastlabel.labels.topk import check_temperature

_FORMS = "a number, step:START,FACTOR,EVERY,LEAST or cosine:START,END"


@dataclass(frozen=True)
class TemperatureSchedule:
    """A temperature for each epoch, as arXiv 2604.18135 anneals it.

    "step": `start` times `factor` after each `every` epochs, at least `end`. "cosine": from `start` down or up to `end`
    along half a cosine over all epochs, which ends one epoch before `end` would be reached. "constant": `start`.
    """

    kind: str
    start: float
    end: float
    factor: float = 1.0
    every: int = 1

    @classmethod
    def parse(cls, name: str, given: object) -> TemperatureSchedule:
        """The schedule of a number, or of a text such as step:20,0.7,30,2 or cosine:20,2. InputError names `name`."""
        if isinstance(given, TemperatureSchedule):
            return given
        if not isinstance(given, str):
            number: Any = given
            if isinstance(given, bool):
                raise InputError(f"{name} is {given!r}, expected {_FORMS}")
            check_temperature(name, number)
            return cls("constant", number, number)
        kind, colon, rest = given.partition(":")
        values = _numbers(rest if colon else given)
        if not colon and values is not None and len(values) == 1:
            check_temperature(name, values[0])
            return cls("constant", values[0], values[0])
        if colon and kind == "step" and values is not None and len(values) == 4:
            return cls._step(name, given, values)
        if colon and kind == "cosine" and values is not None and len(values) == 2:
            for value in values:
                check_temperature(name, value)
            return cls("cosine", values[0], values[1])
        raise InputError(f"{name} is {given!r}, expected {_FORMS}")

    @classmethod
    def _step(cls, name: str, given: str, values: Sequence[float]) -> TemperatureSchedule:
        start, factor, every, least = values
        for value in (start, least):
            check_temperature(name, value)
        if not 0 < factor <= 1 or not (every >= 1 and every.is_integer()) or least > start:
            raise InputError(
                f"{name} is {given!r}, expected step:START,FACTOR,EVERY,LEAST with a factor above 0 and at most 1, a "
                "whole number of epochs of 1 or more, and a least temperature of at most the first one"
            )
        return cls("step", start, least, factor, int(every))

    @property
    def constant(self) -> bool:
        """Whether all epochs have the same temperature."""
        return self.start == self.end or self.kind == "constant"

    @property
    def highest(self) -> float:
        """The highest temperature."""
        return max(self.start, self.end)

    def at(self, epoch: int, epochs: int) -> float:
        """The temperature of epoch 0, 1, ... of so many."""
        if self.kind == "step":
            return max(self.end, self.start * self.factor ** (epoch // self.every))
        if self.kind == "cosine":
            value = self.end + (self.start - self.end) * ((1 + math.cos(math.pi * epoch / epochs)) / 2)
            # From 1 to 1e308 the sum is 0 in the first epoch: no temperature.
            return min(max(value, min(self.start, self.end)), self.highest)
        return self.start

    def plain(self) -> float | str:
        """A number or a text that `parse` takes."""
        if self.kind == "constant":
            return self.start
        numbers = [self.start, self.factor, self.every, self.end] if self.kind == "step" else [self.start, self.end]
        return f"{self.kind}:{','.join(f'{number:.12g}' for number in numbers)}"


@dataclass(frozen=True)
class Phases:
    """Which labels each epoch trains on: ("soft" or "hard", number of epochs) one after another."""

    parts: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: str, epochs: int) -> Phases:
        """Those of a text such as soft:75,hard:150,soft:75. InputError unless they add up to all `epochs`."""
        parts = []
        for part in text.split(",") if isinstance(text, str) else [str(text)]:
            kind, _, count = part.partition(":")
            if kind not in PHASES or not (count.isascii() and count.isdigit() and len(count) < 10) or int(count) < 1:
                raise InputError(
                    f"phases are {text!r}: {part!r} is none, expected {' or '.join(PHASES)}, a colon and a number of "
                    "epochs, as in soft:75,hard:150,soft:75"
                )
            parts.append((kind, int(count)))
        total = sum(count for _, count in parts)
        if total != epochs:
            raise InputError(f"the phases {text} add up to {total} epochs, and the run has {epochs}")
        return cls(tuple(parts))

    def plain(self) -> str:
        """A text that `parse` takes."""
        return ",".join(f"{kind}:{count}" for kind, count in self.parts)

    def scaled(self, epochs: int) -> Phases:
        """The same shares of so many epochs, to the next whole one; phases that are left none are gone."""
        total = sum(count for _, count in self.parts)
        parts, done, before = [], 0, 0
        for kind, count in self.parts:
            done += count
            until = round(done * epochs / total)
            parts += [(kind, until - before)] if until > before else []
            before = until
        return Phases(tuple(parts))

    def at(self, epoch: int) -> str:
        """Of epoch 0, 1, ...; the last one goes on for ever."""
        for kind, count in self.parts:
            if epoch < count:
                return kind
            epoch -= count
        return self.parts[-1][0]


def _numbers(text: str) -> list[float] | None:
    """Numbers between commas; None where something else is there."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None
