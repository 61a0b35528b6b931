"""The ranks that train one network together: what they tell each other between and within steps."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastlabel.errors import FastlabelError, InputError, Interrupted
from fastlabel.system.ranks import Ranks

# Longer than any save, evaluation batch or first read of a dataset takes; a rank that is silent for so long is lost.
PATIENCE = timedelta(minutes=20)
_BACKENDS = ("gloo", "nccl", "connection", "socket")
Value = TypeVar("Value")

_control: tuple[Any, Any] | None = None  # the group that all processes are in, and the one for values on the CPU


@dataclass(frozen=True)
class Group:
    """This process among those that train together; alone, everything here is a local matter.

    `control` is a group for values on the CPU, so that a GPU need not wait when ranks agree on something.
    """

    ranks: Ranks = field(default_factory=Ranks)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.ranks.first

    @property
    def size(self) -> int:
        """How many processes train together."""
        return self.ranks.world_size

    def workers(self, asked: int) -> int:
        """Decoding threads of this rank: 0 shares the cores among the ranks of one machine."""
        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1
        return max(1, (os.cpu_count() or 1) // local) if asked == 0 and local > 1 else asked

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: its gradients are averaged over the ranks."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # `share_buffers` does it where they are used
            gradient_as_bucket_view=True,
        )

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0: the running statistics of batch norm."""
        if self.size > 1:
            with lost_ranks():
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0)

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over the ranks."""
        return [int(value) for value in self._reduce(values, dist.ReduceOp.MAX)] if self.size > 1 else list(values)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM) if self.size > 1 else list(values)

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks on rank 0, in their order; none elsewhere."""
        if self.size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.size if self.first else None
        with lost_ranks():
            dist.gather_object(value, gathered, dst=0, group=self.control)
        return gathered or []

    def on_first(self, action: Callable[[], Value]) -> Value:
        """What `action` gives on rank 0, on every rank. Its error there is raised there, and noted elsewhere."""
        if self.size == 1:
            return action()
        result: list[Any] = [None, None]
        error: BaseException | None = None
        if self.first:
            try:
                result[0] = action()
            except Exception as failed:
                error, result[1] = failed, f"{failed}"
        with lost_ranks():
            dist.broadcast_object_list(result, src=0, group=self.control)
        if error is not None:
            raise error
        if result[1] is not None:
            raise FastlabelError(f"rank 0 failed: {result[1]}")
        value: Value = result[0]
        return value

    def _reduce(self, values: Sequence[float], op: Any) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64)
        with lost_ranks():
            dist.all_reduce(reduced, op, group=self.control)
        numbers: list[float] = reduced.tolist()
        return numbers


@contextmanager
def training_group(device: torch.device) -> Iterator[Group]:
    """The group of all processes that torchrun started, with this one's device; on CUDA each has a GPU of its own.

    They talk over NCCL on CUDA and gloo on the CPU, and stay connected until the process ends, for one training after
    another. Raises InputError when a machine has more ranks than GPUs.
    """
    ranks = Ranks.from_environment()
    if ranks.world_size == 1:
        yield Group(ranks, device)
        return
    device = _own_device(ranks, device)
    with lost_ranks():
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size, timeout=PATIENCE)
            atexit.register(_leave)
        group = Group(ranks, device, _control_group())
    try:
        yield group
    except Interrupted:
        raise
    except BaseException:
        # A rank may be stuck in the group, or gone: taking it down would wait for it.
        atexit.unregister(_leave)
        raise


def _control_group() -> Any:
    """One for as long as the processes are connected: groups that come and go meet their predecessors' addresses."""
    global _control
    if _control is None or _control[0] is not dist.group.WORLD:
        _control = (dist.group.WORLD, dist.new_group(backend="gloo", timeout=PATIENCE))
    return _control[1]


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device(ranks: Ranks, device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    if ":" in str(device):
        raise InputError(f"the device {device} is one GPU, and there are {ranks.world_size} ranks: give cuda")
    if ranks.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"this machine has {torch.cuda.device_count()} GPUs and rank {ranks.local_rank + 1} of it wants one too: "
            "start fewer with --nproc-per-node"
        )
    device = ranks.device(device)
    torch.cuda.set_device(device)
    return device


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn what gloo and NCCL say of a rank that went away into one sentence; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        if not isinstance(error, dist.DistError) and not any(name in reason.lower() for name in _BACKENDS):
            raise
        raise FastlabelError(
            f"another rank of this run has ended or is silent; its own message says why ({reason})"
        ) from error
