"""One network on several ranks: its gradients are averaged, its statistics are rank 0's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastlabel.errors import InputError
from fastlabel.system.ranks import Ranks, talking


@contextmanager
def training_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """All processes that train together, and this one's device: on CUDA each has a GPU of its own.

    Raises InputError when the device is one GPU for all, or a machine has more ranks than GPUs.
    """
    ranks = Ranks.current()
    if not ranks.alone and device.type == "cuda" and device.index is not None:
        raise InputError(f"the device {device} is one GPU, and there are {ranks.world_size} ranks: give cuda")
    device = ranks.device(device)
    with ranks.group() as connected:
        yield connected, device


def wrap(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The model as it is trained: `backward` averages its gradients over the ranks."""
    if ranks.alone:
        return model
    with talking():
        network = DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    # `share_buffers` does it where they are used. (The argument has another name in each version of PyTorch.)
    network.broadcast_buffers = False
    return network


def backward(loss: torch.Tensor, ranks: Ranks) -> None:
    """The gradients of a loss, averaged over the ranks that a wrapped model has."""
    if ranks.alone:
        loss.backward()
        return
    with talking():
        loss.backward()


def share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give every rank the buffers of rank 0: the running statistics of batch norm."""
    if not ranks.alone:
        with talking():
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
