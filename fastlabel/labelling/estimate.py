"""A dry run: some crops labelled into nowhere, for a bounded time, and what the whole would take."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np

from fastlabel.images.loader import ImageLoader
from fastlabel.labelling.forward import TeacherForward
from fastlabel.labelling.options import Labelling
from fastlabel.labelling.report import CacheReport
from fastlabel.labelling.unit import passes, try_labelling
from fastlabel.store.grow import Growth
from fastlabel.store.manifest import DECODE_VIEWS
from fastlabel.store.units import count_units
from fastlabel.system.progress import Progress

SECONDS = 10.0  # of measuring, and no more; a batch that is begun is ended
BATCHES = 64  # of each view at most
PARTS = 5  # of the measured time, whose speeds are compared


def estimate(
    path: Path,
    growth: Growth,
    labelling: Labelling,
    images: ImageLoader,
    forwards: list[TeacherForward],
    shown: bool = False,
) -> CacheReport:
    """What a run would do, extrapolated from a few batches."""
    infos = [forward.info for forward in forwards]
    views, crops = labelling.num_views, labelling.num_views * len(labelling.ids)
    missing = passes(growth.todo())
    ends, done, compressed = _measure(labelling, images, forwards, shown)
    mean = done[-1] / ends[-1]
    # The mean is of the first batch too, which is in no part.
    speeds = [*_speeds(ends, done), mean]
    return CacheReport(
        store=str(path),
        samples=len(labelling.ids),
        views=views,
        teachers=tuple(info.name for info in infos),
        k=infos[0].codec.k,
        num_classes=infos[0].codec.num_classes,
        crops=crops,
        crops_done=0,
        units=count_units(growth.manifest) * len(forwards),
        units_done=0,
        bytes_on_disk=round(compressed / done[-1] * crops),
        seconds=missing / mean,
        dry_run=True,
        seconds_between=(missing / max(speeds), missing / min(speeds)) if len(speeds) > 1 else None,
    )


def _measure(
    labelling: Labelling, images: ImageLoader, forwards: list[TeacherForward], shown: bool
) -> tuple[list[float], list[int], int]:
    """The second at which each batch was done, the crops done by then, and the bytes of all their labels."""
    batch = forwards[0].batch
    list(try_labelling(images, forwards, labelling.ids[:batch], range(1)))  # compiles and warms up
    some = range(min(labelling.num_views, DECODE_VIEWS))
    ends: list[float] = []
    done: list[int] = []
    compressed, told, started = 0, 0, time.monotonic()
    batches = try_labelling(images, forwards, labelling.ids[: BATCHES * batch], some)
    with closing(batches), Progress("dry run", round(SECONDS), "seconds", shown=shown) as bar:  # type: ignore[type-var]
        for crops, nbytes in batches:
            ends.append(time.monotonic() - started)
            done.append(crops + (done[-1] if done else 0))
            compressed += nbytes
            bar.update(min(int(ends[-1]), round(SECONDS)) - told)
            told = min(int(ends[-1]), round(SECONDS))
            if ends[-1] >= SECONDS:
                break
    return ends, done, compressed


def _speeds(ends: list[float], done: list[int]) -> list[float]:
    """Crops per second in parts of the measured time with equally many batches; none where there are too few."""
    if len(ends) < 2 * PARTS:
        return []
    at = np.linspace(0, len(ends) - 1, PARTS + 1).astype(int)
    seconds, crops = np.diff(np.array(ends)[at]), np.diff(np.array(done)[at])
    return [float(speed) for speed in crops / np.maximum(seconds, 1e-9)]
