"""The processes of one run, as torchrun starts them: who am I, and how do we agree. Alone, all of it is local."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fastlabel.errors import FastlabelError, InputError, Interrupted

# Of what GPUs tell each other. PyTorch ends a process whose GPU waits for longer, without an error that Python sees:
# whatever ranks agree on has less patience, so that a lost rank is noticed there first, and told in one sentence.
GPU_PATIENCE = timedelta(minutes=20)
# Longer than any save, evaluation batch or first read of a dataset takes; a rank that is silent for so long is lost.
PATIENCE = timedelta(minutes=15)
Value = TypeVar("Value")

_controls: dict[timedelta, tuple[Any, Any]] = {}  # the group that all processes were in, and the one of that patience


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size`. `local_rank` counts those of one machine, and picks the GPU.

    Several ranks talk inside of `group`. What they agree on are values on the CPU (`control`), so that no GPU waits.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    control: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)

    @classmethod
    def current(cls) -> Ranks:
        """This process in torch.distributed's group, or in what torchrun says there will be; else alone."""
        if dist.is_available() and dist.is_initialized():
            rank = dist.get_rank()
            local = os.environ.get("LOCAL_RANK", rank % max(1, torch.cuda.device_count()))
            return cls(rank, dist.get_world_size(), int(local))
        values = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        if values[0] is None or values[1] is None:
            return cls()
        try:
            rank, world_size, local_rank = (int(value or 0) for value in values)
        except ValueError:
            raise InputError(f"RANK, WORLD_SIZE and LOCAL_RANK are {values}, expected whole numbers") from None
        if not 0 <= rank < world_size:
            raise InputError(f"RANK is {rank} and WORLD_SIZE {world_size}; start with torchrun")
        return cls(rank, world_size, local_rank)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def device(self, device: torch.device) -> torch.device:
        """This rank's own GPU, where "cuda" without a number was asked for; torch's current one from here on.

        Raises InputError when the machine has more ranks than GPUs.
        """
        if str(device) != "cuda" or self.alone:
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"this machine has {torch.cuda.device_count()} GPUs and rank {self.local_rank + 1} of it wants one "
                "too: start fewer with --nproc-per-node"
            )
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def workers(self, asked: int) -> int:
        """Decoding threads of this rank: 0 shares the cores among the ranks of one machine."""
        local = 1 if self.alone else int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        return max(1, (os.cpu_count() or 1) // local) if asked == 0 and local > 1 else asked

    @contextmanager
    def group(self, patience: timedelta = PATIENCE) -> Iterator[Ranks]:
        """These ranks, connected: in the program's own process group where there is one.

        They stay connected until the process ends, for one run after another. A rank that says nothing for `patience`
        is lost.
        """
        if self.alone:
            yield self
            return
        with talking():
            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                dist.init_process_group(backend, rank=self.rank, world_size=self.world_size, timeout=GPU_PATIENCE)
                atexit.register(_leave)
            connected = replace(self, control=_control_group(patience))
        try:
            yield connected
        except Interrupted:
            raise
        except BaseException:
            # A rank may be stuck in the group, or gone: taking it down would wait for it.
            atexit.unregister(_leave)
            raise

    def agree(self, value: Value) -> Value:
        """Rank 0's value, on every rank, once all are here; other ranks' own values are not looked at."""
        if self.alone:
            return value
        holder: list[Any] = [value if self.first else None]
        with talking():
            dist.broadcast_object_list(holder, src=0, group=self.control)
            dist.barrier(self.control)
        agreed: Value = holder[0]
        return agreed

    def on_first(self, action: Callable[[], Value]) -> Value:
        """What `action` gives on rank 0, on every rank. Its error there is raised there, and noted elsewhere."""
        if self.alone:
            return action()
        result: Any = None
        error: Exception | None = None
        if self.first:
            try:
                result = action()
            except Exception as failed:
                error = failed
        result, failure = self.agree((result, None if error is None else str(error)))
        if error is not None:
            raise error
        if failure is not None:
            raise FastlabelError(f"rank 0 failed: {failure}")
        value: Value = result
        return value

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks in their order, on every rank."""
        values = [value] * self.world_size
        if not self.alone:
            with talking():
                dist.all_gather_object(values, value, group=self.control)
        return values

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM) if not self.alone else list(values)

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over the ranks."""
        return [int(value) for value in self._reduce(values, dist.ReduceOp.MAX)] if not self.alone else list(values)

    def _reduce(self, values: Sequence[float], op: Any) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64)
        with talking():
            dist.all_reduce(reduced, op, group=self.control)
        numbers: list[float] = reduced.tolist()
        return numbers


@contextmanager
def talking() -> Iterator[None]:
    """For what does nothing else than talk to other ranks: where that fails, one of them is lost (FastlabelError)."""
    try:
        yield
    except RuntimeError as error:
        # Of a kind of its own: this rank's. PyTorch gives gloo's failures no kind.
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise FastlabelError(
            f"another rank of this run has ended or is silent; its own message says why ({reason})"
        ) from error


def _control_group(patience: timedelta) -> Any:
    """One for as long as the processes are connected: groups that come and go meet their predecessors' addresses."""
    world, control = _controls.get(patience, (None, None))
    if world is not dist.group.WORLD:
        control = dist.new_group(backend="gloo", timeout=patience)
        _controls[patience] = (dist.group.WORLD, control)
    return control


def _leave() -> None:
    """Take the groups down, and their threads with them: one that lets go of a tensor while Python ends aborts."""
    if dist.is_initialized():
        dist.destroy_process_group()
    # Each of these keeps a group's threads alive: what is remembered here, and a network that is garbage in a cycle.
    _controls.clear()
    gc.collect()
