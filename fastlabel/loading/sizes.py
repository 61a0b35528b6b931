"""The side of the crops of each epoch: one for all, or progressive, as "160:16,192:32,224"."""

from __future__ import annotations

from dataclasses import dataclass

from fastlabel.errors import InputError
from fastlabel.system.arguments import integer_between
from fastlabel.views import MAX_SIDE

EXPECTED = "a size, or sizes with their numbers of epochs and a last one without, as 160:16,192:32,224"


@dataclass(frozen=True)
class SizeSchedule:
    """Sizes in pixels, and the epoch before which each of them ends; the last one goes on.

    Attributes:
        sizes: of crops. ends: one fewer, ascending.
    """

    sizes: tuple[int, ...]
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, given: int | str) -> SizeSchedule:
        """Of one size, or of a text as above. InputError for anything else."""
        if not isinstance(given, str):
            return cls((integer_between("size", given, 1, MAX_SIDE),))
        sizes, ends = [], [0]
        parts = given.split(",")
        for place, part in enumerate(parts):
            size, colon, epochs = part.partition(":")
            last = place == len(parts) - 1
            if not _is_number(size) or bool(colon) == last or (colon and not _is_number(epochs)):
                raise InputError(f"size is {given!r}, expected {EXPECTED}")
            sizes.append(integer_between("size", int(size), 1, MAX_SIDE))
            if not last:
                ends.append(ends[-1] + integer_between("the epochs of a size", int(epochs), 1, 1 << 31))
        return cls(tuple(sizes), tuple(ends[1:]))

    def at(self, epoch: int) -> int:
        """The size of epoch 0, 1, ..."""
        return self.sizes[sum(end <= epoch for end in self.ends)]

    def __str__(self) -> str:
        starts = (0, *self.ends)
        lengths = [stop - start for start, stop in zip(starts, self.ends, strict=False)]
        return ",".join(
            [*(f"{size}:{length}" for size, length in zip(self.sizes, lengths, strict=False)), str(self.sizes[-1])]
        )


def _is_number(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdecimal() and len(text) <= 10
