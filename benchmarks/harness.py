"""One harness for every benchmark: cases alternate in one run; median and spread, with machine and versions."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlabel.system.host import package_versions, processor

PACKAGES = ("fastlabel", "ffcv", "numba", "numpy", "torch", "torchvision", "triton", "zarr")


@dataclass(frozen=True)
class Timing:
    """Seconds of one case over all rounds."""

    median: float
    p20: float
    p80: float
    rounds: int

    def each(self, repeats: int) -> Timing:
        """Of one of several repeats that were timed together."""
        return Timing(self.median / repeats, self.p20 / repeats, self.p80 / repeats, self.rounds)


def alternate(cases: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time each case ``rounds`` times, in turns, so that a noisy minute hits all alike; one more round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return {name: summary(values) for name, values in seconds.items()}


def graph_timings(
    cases: Mapping[str, Callable[[], Any]], repeats: int, rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Seconds of one call of each case on a CUDA device without those of the host: replayed as a CUDA graph.

    A case that waits for the device in the midst of it cannot be replayed: it is left out.
    """
    replays = {}
    for name, case in cases.items():
        with suppress(RuntimeError):
            replays[name] = _graphed(case, repeats, device)
    return {name: timing.each(repeats) for name, timing in alternate(replays, rounds).items()}


def _graphed(case: Callable[[], Any], repeats: int, device: torch.device) -> Callable[[], None]:
    """`repeats` calls as one graph, and the wait for its end."""
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for _ in range(3):  # compiles, and fills what is kept between calls
            case()
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            case()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    return replay


def summary(seconds: list[float]) -> Timing:
    p20, median, p80 = np.percentile(seconds, [20, 50, 80])
    return Timing(float(median), float(p20), float(p80), len(seconds))


def machine() -> dict[str, Any]:
    """Where figures come from."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": package_versions(*PACKAGES),
    }


def write_json(path: Path, question: str, figures: Mapping[str, Any]) -> None:
    """Keep a result, with the machine that it was measured on."""
    values = {name: asdict(value) if isinstance(value, Timing) else value for name, value in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"question": question, "machine": machine(), **values}, indent=1) + "\n")
