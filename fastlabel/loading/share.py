"""Which part of every batch is this process's, when several share the work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import InputError
from fastlabel.system.arguments import at_least, integer_between
from fastlabel.system.ranks import Ranks


@dataclass(frozen=True)
class Share:
    """Process number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        world_size = at_least("world_size", self.world_size, 1)
        object.__setattr__(self, "world_size", world_size)
        try:
            rank = integer_between("rank", self.rank, 0, world_size)
        except InputError as error:
            raise InputError(f"{error}: there are {world_size} of them") from None
        object.__setattr__(self, "rank", rank)

    @classmethod
    def choose(cls, rank: int | None, world_size: int | None) -> Share:
        """The share that was asked for; without a word, that of torch.distributed's process group, or of torchrun.

        Else every process of several would get all batches. Raises InputError where one is given without the other.
        """
        if rank is not None and world_size is not None:
            return cls(rank, world_size)
        if rank is not None or world_size is not None:
            given, other = ("rank", "world_size") if world_size is None else ("world_size", "rank")
            raise InputError(f"{given} is given without {other}: give both, or none to take the process group's")
        ranks = Ranks.current()
        return cls(ranks.rank, ranks.world_size)

    def of(self, ids: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
        """What this process takes of each batch of `batch_size` samples, one batch after another."""
        whole = len(ids) // batch_size * batch_size
        parts = (ids[:whole].reshape(-1, batch_size), ids[None, whole:])
        return np.concatenate([np.array_split(part, self.world_size, axis=1)[self.rank].ravel() for part in parts])

    def count(self, samples: int) -> int:
        """How many samples of a batch of so many this process takes."""
        return len(range(self.rank, samples, self.world_size))
