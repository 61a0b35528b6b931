"""Part (b): the kernels against what a copy reaches, and against dense targets; how they are launched best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fastlabel.benchmarks import codec, loss
from fastlabel.benchmarks.gpu_check.check import Cell, Check
from fastlabel.benchmarks.harness import Timing, alternate, graph_timings
from fastlabel.kernels.encode_topk import encode_topk
from fastlabel.kernels.soft_cross_entropy import Labels, Target
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.loss import soft_cross_entropy

QUESTION = "kernels: share of a copy's bandwidth, times faster than dense targets, host time, launches"
K = 16
# Classes, rows, dtype; the first ones matter most. Logits of many rows do not fit a GPU's cache, those of 1,024 rows
# of 1,000 classes take less time than the host needs to start a kernel.
SHAPES = (
    (21841, 4096, "bfloat16"),
    (21841, 4096, "float32"),
    (1000, 65536, "bfloat16"),
    (21841, 1024, "bfloat16"),
    (1000, 1024, "bfloat16"),
    (1024, 65536, "bfloat16"),
    (1000, 65536, "float32"),
)
TINY_SHAPES = ((100, 8, "bfloat16"),)
SWEPT = ((21841, 4096, "bfloat16"), (1000, 65536, "bfloat16"), (21841, 4096, "float32"))
LANES, WARPS, STEPS = (128, 256, 512, 1024), (1, 2, 4, 8, 16), (1, 4)
ROUNDS, REPEATS = 5, 20


def cells(check: Check) -> Iterator[Cell]:
    """The ceiling, the loss, the host, the codec; then launches, which compile for long."""
    device, shapes = check.device, TINY_SHAPES if check.quick else SHAPES
    yield "copy", lambda: copy_ceiling(check.size(1 << 30, 1 << 16), device)
    for C, B, dtype in shapes:
        yield f"loss C={C} B={B} {dtype}", partial(loss_cell, C, B, dtype, check)
    yield "host time of the loss", lambda: host_time(device, check.size(300, 5))
    for C, B, dtype in shapes[:3]:
        yield f"codec C={C} B={B} {dtype}", partial(codec_cell, C, B, dtype, device)
    if device.type == "cuda":
        for (C, B, dtype), direction in product(SWEPT, ("forward", "backward")):
            yield f"launches {direction} C={C} B={B} {dtype}", partial(launches, C, B, dtype, device, direction)


def copy_ceiling(nbytes: int, device: torch.device) -> dict[str, Any]:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = kernel_seconds({"copy": lambda: target.copy_(source)}, device)["copy"]
    return {"nbytes": nbytes, "seconds": timing, "bytes_per_second": 2 * nbytes / timing.median}


def loss_cell(C: int, B: int, dtype: str, check: Check) -> dict[str, Any]:
    """The loss and its gradient, and a dense target's; FKD's, which the host makes, is left out."""
    peers = ("dense",) if check.quick else ("dense", "compiled")
    return loss.measure_cell(B, C, min(K, C), check.device, getattr(torch, dtype), check.size(ROUNDS, 1), peers)


def codec_cell(C: int, B: int, dtype: str, device: torch.device) -> dict[str, Any]:
    """Labels made from logits, and made dense again; the first reads logits once, half of what a copy moves."""
    logits = (2.5 * torch.randn(B, C, device=device)).to(getattr(torch, dtype))
    codec.check(logits, K)
    copied = torch.empty_like(logits)
    timings = kernel_seconds({**codec.cases(logits, K), "copy": lambda: copied.copy_(logits)}, device)
    share = 0.5 * timings["copy"].median / timings["encode"].median
    return {"B": B, "C": C, "k": K, "graph_seconds": timings, "encode_share_of_copy_bandwidth": share}


def host_time(device: torch.device, calls: int) -> dict[str, Any]:
    """Seconds of the host for one call on a tiny batch, which the device finishes sooner than the host begins."""
    labels = TopKCodec(K, 1000).encode(torch.randn(8, 1000, device=device))
    logits = torch.randn(8, 1000, device=device).requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(soft_cross_entropy(logits, labels), logits)[0]

    ways: dict[str, Callable[[], Any]] = {
        "forward": torch.no_grad()(lambda: soft_cross_entropy(logits, labels)),
        "forward and backward": gradient,
        "cross_entropy forward and backward": lambda: torch.autograd.grad(logits.logsumexp(1).mean(), logits)[0],
    }
    return {name: _host_seconds(way, calls, device) for name, way in ways.items()}


def _host_seconds(way: Callable[[], Any], calls: int, device: torch.device) -> float:
    for _ in range(20):
        way()
    finish(device)
    started = time.perf_counter()
    for _ in range(calls):
        way()
    seconds = time.perf_counter() - started
    finish(device)
    return seconds / calls


def launches(C: int, B: int, dtype: str, device: torch.device, direction: str) -> dict[str, Any]:
    """Seconds of a kernel of the loss by its launch, the fastest first; the one that is used is "default"."""
    from fastlabel.kernels.soft_cross_entropy import triton

    logits = torch.randn(B, C, device=device).to(getattr(torch, dtype))
    target = Target(Labels(*encode_topk(3 * torch.randn(B, C, device=device), K)))
    losses, stats = triton.forward(logits, target, 1.0)
    ones = torch.ones_like(losses)

    def forward(launch: Any) -> Any:
        return triton.forward(logits, target, 1.0, launch=launch)

    def backward(launch: Any) -> Any:
        return triton.backward(ones, logits, stats, 1.0, launch=launch)

    kernel, steps = (forward, (1,)) if direction == "forward" else (backward, STEPS)
    seconds = {}
    for launch in _launches(steps):
        name = "default" if launch is None else f"lanes={launch.lanes} warps={launch.warps} steps={launch.steps}"
        seconds[name] = kernel_seconds({name: partial(kernel, launch)}, device, rounds=3)[name].median
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def _launches(steps: tuple[int, ...]) -> list[Any]:
    from fastlabel.kernels.soft_cross_entropy.triton import Launch

    found = [Launch(*values) for values in product(LANES, WARPS, steps)]
    return [None, *(launch for launch in found if 1 <= launch.lanes // (32 * launch.warps) <= 8)]


def kernel_seconds(
    cases: dict[str, Callable[[], Any]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Seconds of each case without those of the host; on a CPU with them."""
    return graph_timings(cases, REPEATS, rounds, device) if device.type == "cuda" else alternate(cases, 1)


def finish(device: torch.device) -> None:
    """Wait for all work of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
