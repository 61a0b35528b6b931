"""The processes of one run, as torchrun starts them: who am I, and how do we agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fastlabel.errors import FastlabelError, InputError

# A rank may wait for another one's unit, which takes as long as its teacher takes; torchrun ends those whose peer died.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among ``world_size``. ``local_rank`` counts those of one machine, and picks the GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """What torchrun says in RANK, WORLD_SIZE and LOCAL_RANK; a single process without them."""
        values = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        if values[0] is None or values[1] is None:
            return cls()
        try:
            ranks = cls(*(int(value or 0) for value in values))
        except ValueError:
            raise InputError(f"RANK, WORLD_SIZE and LOCAL_RANK are {values}, expected whole numbers") from None
        if not 0 <= ranks.rank < ranks.world_size:
            raise InputError(f"RANK is {ranks.rank} and WORLD_SIZE {ranks.world_size}; start with torchrun")
        return ranks

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """This rank's own GPU, where "cuda" without a number was asked for."""
        if str(device) == "cuda" and self.world_size > 1:
            return torch.device("cuda", self.local_rank)
        return device

    @contextmanager
    def group(self) -> Iterator[Ranks]:
        """A process group over all ranks while inside: the program's own, if there is one; none for one process."""
        if self.world_size == 1 or dist.is_initialized():
            yield self
            return
        dist.init_process_group("gloo", rank=self.rank, world_size=self.world_size, timeout=PATIENCE)
        try:
            yield self
        finally:
            dist.destroy_process_group()

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank, once all are here; other ranks' own values are not looked at.

        Raises:
            FastlabelError: another rank has ended.
        """
        if self.world_size == 1:
            return value
        holder = [value if self.first else None]
        try:
            dist.broadcast_object_list(holder, src=0)
            dist.barrier()
        except RuntimeError as error:
            raise FastlabelError("another rank of this run has ended; its own message says why") from error
        return holder[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank, once all are here. FastlabelError: another rank has ended."""
        values = [value] * self.world_size
        if self.world_size > 1:
            try:
                dist.all_gather_object(values, value)
            except RuntimeError as error:
                raise FastlabelError("another rank of this run has ended; its own message says why") from error
        return values
