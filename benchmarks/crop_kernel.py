"""One crop of 340x360 pixels to 224x224 on one core: our kernel, OpenCV's filters, torch's antialiased one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from fastlabel.benchmarks.harness import Timing, alternate
from fastlabel.kernels.resized_crop.numba import resized_crop_in, scratch_bytes

IMAGE, BOX, SIZE = (375, 500), (10, 60, 340, 360, 0), 224
REPEATS = 10  # of each call that is timed


def measure(rounds: int) -> dict[str, Timing]:
    """Seconds of one crop, by name."""
    with _one_core():
        timings = alternate({name: partial(_repeat, case) for name, case in _cases().items()}, rounds)
    return {
        name: Timing(timing.median / REPEATS, timing.p20 / REPEATS, timing.p80 / REPEATS, timing.rounds)
        for name, timing in timings.items()
    }


def _repeat(case: Callable[[], object]) -> None:
    for _ in range(REPEATS):
        case()


def _cases() -> Mapping[str, Callable[[], object]]:
    image = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
    top, left, height, width, _ = BOX
    box, out = np.array(BOX, np.int32), np.empty((SIZE, SIZE, 3), np.uint8)
    scratch = np.empty(scratch_bytes(*IMAGE, SIZE), np.uint8)
    inside = image[top : top + height, left : left + width]
    tensor = torch.from_numpy(inside).permute(2, 0, 1)[None]  # channels last in memory, its fastest layout
    return {
        "ours": lambda: resized_crop_in(image, box, out, scratch),
        "OpenCV INTER_AREA, FFCV's": lambda: cv2.resize(inside, (SIZE, SIZE), out, interpolation=cv2.INTER_AREA),
        "OpenCV INTER_LINEAR, not antialiased": lambda: cv2.resize(inside, (SIZE, SIZE), out),
        "torch antialiased uint8": lambda: F.interpolate(tensor, (SIZE, SIZE), mode="bilinear", antialias=True),
    }


@contextmanager
def _one_core() -> Iterator[None]:
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)
