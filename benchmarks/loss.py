"""What does the loss against stored labels cost, forward and backward, next to a dense target?

    fastlabel bench loss                                                        a small grid
    python -m fastlabel.benchmarks.loss [--device cuda --dtype bfloat16] [--json OUT]    the whole one

Peers: (a) `dense`: decode to a dense target, F.cross_entropy; (b) `compiled`: the same under torch.compile; (c) `fkd`:
as FKD does it, a dense target scattered on the CPU and copied to the device. `copy` copies the logits once: the floor
is to read them twice and to write the gradient once, 1.5 times as many bytes; `forward` is the loss without its
gradient, which reads half of what a copy moves. On a GPU `graph_seconds` are of the kernels alone, replayed as a CUDA
graph; `seconds` are of the host too, which is the slower one in small batches. On a CPU that others use too, look at
the seconds of processor time, which all threads of the process took together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel.benchmarks.harness import alternate, graph_timings, summary, write_json
from fastlabel.benchmarks.memory import peak_bytes
from fastlabel.benchmarks.question import Answer, Setup, bars
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.loss import soft_cross_entropy
from fastlabel.labels.topk import TopKLabels

PEERS = ("dense", "compiled", "fkd")
QUESTION = "time and peak memory of forward plus backward of the loss, against a dense target"
Case = Callable[[], Tensor]


def measure(
    batches: Iterable[int],
    classes: Iterable[int],
    kept: Iterable[int],
    device: str,
    dtype: str,
    rounds: int,
    peers: Collection[str] = PEERS,
) -> Iterator[dict[str, Any]]:
    """One cell of the grid after another, as plain values: seconds, bytes, ratios."""
    for C in classes:
        for B in batches:
            for K in kept:
                yield measure_cell(B, C, K, torch.device(device), getattr(torch, dtype), rounds, peers)


def measure_cell(
    B: int, C: int, K: int, device: torch.device, dtype: torch.dtype, rounds: int, peers: Collection[str] = PEERS
) -> dict[str, Any]:
    """Seconds and peak bytes of every way to compute one loss and its gradient."""
    cases, logits = make_cases(B, C, K, device, dtype, peers)
    repeats = 20 if device.type == "cuda" else 1
    processor: dict[str, list[float]] = {name: [] for name in cases}
    timings = alternate({name: _timed(case, repeats, device, processor[name]) for name, case in cases.items()}, rounds)
    peaks = {name: peak_bytes(case, device) for name, case in cases.items() if name != "copy"}
    cpu = {name: summary(seconds[1:]) for name, seconds in processor.items()}  # the first round warms up
    ours = timings["fused"].median
    on_gpu = {} if device.type != "cuda" else _graph_figures(cases, repeats, device, rounds, peers)
    return {
        "B": B,
        "C": C,
        "K": K,
        "logits_bytes": logits.element_size() * B * C,
        "seconds": {name: asdict(timing.each(repeats)) for name, timing in timings.items()},
        "processor_seconds": {name: asdict(timing.each(repeats)) for name, timing in cpu.items()},
        "peak_bytes": peaks,
        "times_faster_than": {name: timings[name].median / ours for name in peers},
        "times_less_processor_time_than": {name: cpu[name].median / cpu["fused"].median for name in peers},
        "share_of_copy_bandwidth": 1.5 * timings["copy"].median / ours,
        **on_gpu,
    }


def _graph_figures(
    cases: dict[str, Case], repeats: int, device: torch.device, rounds: int, peers: Iterable[str]
) -> dict[str, Any]:
    """The same of the kernels alone."""
    timings = graph_timings(cases, repeats, rounds, device)
    ours, copy = timings["fused"].median, timings["copy"].median
    return {
        "graph_seconds": {name: asdict(timing) for name, timing in timings.items()},
        "graph_times_faster_than": {name: timings[name].median / ours for name in peers if name in timings},
        "graph_share_of_copy_bandwidth": 1.5 * copy / ours,
        "graph_share_of_copy_bandwidth_forward": 0.5 * copy / timings["forward"].median,
    }


def answer(setup: Setup) -> Answer:
    """The question at K=16, at two batch sizes and numbers of classes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches, classes, kept = ((8,), (100,), (4,)) if setup.quick else ((256, 1024), (1000, 21841), (16,))
    peers = [name for name in PEERS if not (setup.quick and name == "compiled")]
    cells = list(measure(batches, classes, kept, device, "float32", setup.rounds_or(9), peers))
    rows = []
    for cell in cells:
        peak = cell["peak_bytes"]["fused"]
        beyond = "unknown" if peak is None else f"{max(0, peak - cell['logits_bytes']) / 2**20:.1f}"
        times = (f"{cell['times_faster_than'][name]:.1f}x" for name in peers)
        shape = (f"B={cell['B']} C={cell['C']} K={cell['K']}", f"{1e3 * cell['seconds']['fused']['median']:.2f}")
        rows.append((*shape, *times, beyond))
    heads = ("loss and gradient", "ms", *(f"against {name}" for name in peers), "MiB beyond the gradient")
    figures = {"device": device, "dtype": "float32", "threads": torch.get_num_threads(), "cells": cells}
    speeds = {f"{n}, C={c['C']}, B={c['B']}": _rates(c, n) for c in cells for n in ("fused", *peers)}
    ours = [name for name in speeds if name.startswith("fused")]
    return Answer(QUESTION, figures, heads, rows, plot=bars(speeds, "rows/s", ours, log=True))


def _rates(cell: dict[str, Any], name: str) -> tuple[float, float, float]:
    seconds = cell["seconds"][name]
    return cell["B"] / seconds["median"], cell["B"] / seconds["p80"], cell["B"] / seconds["p20"]


def make_cases(
    B: int, C: int, K: int, device: torch.device, dtype: torch.dtype, peers: Collection[str] = PEERS
) -> tuple[dict[str, Case], Tensor]:
    """The ways to compute one loss and its gradient, and the logits that they share."""
    torch.manual_seed(0)
    there = TopKCodec(K, C).encode(3 * torch.randn(B, C, device=device))
    labels = there.to("cpu")
    probs_BK, tail_B = labels.probabilities()
    classes_BK = labels.classes.to(torch.int64)
    logits = torch.randn(B, C, device=device).to(dtype).requires_grad_()
    other = torch.empty_like(logits, requires_grad=False)

    def fkd() -> Tensor:
        target_BC = tail_B[:, None].repeat(1, C).scatter_(1, classes_BK, probs_BK).to(device)
        return -(target_BC * F.log_softmax(logits.float(), dim=1)).sum(1).mean()

    def dense(logits: Tensor, labels: TopKLabels) -> Tensor:
        return F.cross_entropy(logits.float(), labels.dense())

    def fused() -> Tensor:
        return soft_cross_entropy(logits, there)

    torch.compiler.reset()  # each cell is compiled for its own shapes
    compiled_dense = torch.compile(dense, fullgraph=True, dynamic=False)
    losses: dict[str, Callable[[], Tensor]] = {
        "fused": fused,
        "dense": lambda: dense(logits, there),
        "compiled": lambda: compiled_dense(logits, there),
        "fkd": fkd,
    }
    cases = {name: _with_gradient(loss, logits) for name, loss in losses.items() if name in ("fused", *peers)}
    check_agreement(losses["fused"], losses["dense"], logits)

    def copy() -> Tensor:
        return other.copy_(logits.detach())

    return {**cases, "forward": torch.no_grad()(fused), "copy": copy}, logits


def check_agreement(found: Callable[[], Tensor], expected: Callable[[], Tensor], logits: Tensor) -> None:
    """Raise AssertionError unless two ways give one loss and one gradient, up to the rounding of the logits' dtype."""
    values, dtype = (found(), expected()), torch.finfo(logits.dtype)
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(values[0].detach(), values[1].detach(), rtol=1e-4, atol=1e-6)
    # The mean over the batch divides gradients by B; what is left may be subnormal in float16.
    smallest = dtype.smallest_normal * dtype.eps
    torch.testing.assert_close(*gradients, rtol=max(1e-4, 2 * dtype.eps), atol=1e-5 / len(logits) + smallest)


def _with_gradient(loss: Callable[[], Tensor], logits: Tensor) -> Case:
    """Forward and backward; the gradient is handed over, so that none is held between calls."""
    return lambda: torch.autograd.grad(loss(), logits)[0]


def _timed(case: Case, repeats: int, device: torch.device, processor_seconds: list[float]) -> Callable[[], None]:
    """A case often enough to be timed from the host, until the device is done; notes the processor time it takes."""

    def run() -> None:
        started = time.process_time()
        for _ in range(repeats):
            case()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        processor_seconds.append(time.process_time() - started)

    return run


def describe(cell: dict[str, Any]) -> str:
    """One line: milliseconds, then how the others compare, in time and in memory beyond the gradient."""
    less = cell["times_less_processor_time_than"]
    faster = ", ".join(f"{name} {ratio:.1f}x ({less[name]:.1f}x)" for name, ratio in cell["times_faster_than"].items())
    gradient = cell["logits_bytes"]
    extra = {name: (peak - gradient) / 2**20 for name, peak in cell["peak_bytes"].items() if peak is not None}
    memory = ", ".join(f"{name} {max(0.0, value):.1f}" for name, value in extra.items())
    return (
        f"B={cell['B']} C={cell['C']} K={cell['K']}: {1e3 * cell['seconds']['fused']['median']:.2f} ms; "
        f"faster (in processor time) than {faster}; {cell['share_of_copy_bandwidth']:.0%} of a copy's bandwidth; "
        f"MiB beyond the gradient: {memory}"
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@click.command()
@click.option("--batches", default="256,1024,4096", show_default=True)
@click.option("--classes", default="1000,21841", show_default=True)
@click.option("--kept", default="8,16,64", show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, help="Whether to measure (b).")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    batches: str, classes: str, kept: str, device: str, dtype: str, rounds: int, compiled: bool, out: Path | None
) -> None:
    """Measure the loss against stored labels."""
    cells = []
    peers = [name for name in PEERS if compiled or name != "compiled"]
    for cell in measure(_numbers(batches), _numbers(classes), _numbers(kept), device, dtype, rounds, peers):
        click.echo(describe(cell))
        cells.append(cell)
    if out is not None:
        threads = torch.get_num_threads()
        write_json(out, QUESTION, {"device": device, "dtype": dtype, "threads": threads, "cells": cells})


if __name__ == "__main__":
    main()
