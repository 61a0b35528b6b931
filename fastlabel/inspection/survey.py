"""Which labels of a store to look at, and looking at them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.inspection.statistics import LabelStatistics, LabelSummary
from fastlabel.labels.topk import TopKLabels
from fastlabel.sampling import random_order
from fastlabel.store.manifest import TeacherInfo
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress
from fastlabel.system.progress import Progress

SAMPLED_VIEWS = 8
READ_BYTES = 64 << 20
Chunk = tuple[UnitAddress, int]  # one view of a unit


class LabelSurvey:
    """Looks at labels of one teacher, a view of a unit at a time."""

    def __init__(self, store: LabelStore, teacher: int, data: Beton | None, per_class: bool, progress: bool) -> None:
        self.store, self.teacher, self.data = store, teacher, data
        self.info = store.manifest.teachers[teacher]
        self._per_class, self._progress = per_class, progress

    def look_at(
        self, chunks: list[Chunk], samples: int, seed: int
    ) -> tuple[LabelSummary | None, tuple[int, ...] | None]:
        """What at most ``samples`` labels say, all for 0; and the views of a sample that is not all."""
        num_targets = self.store.num_classes
        statistics = LabelStatistics(
            self.info.codec.num_classes,
            None if self.data is None else num_targets,
            class_of_target(self.info, num_targets),
        )
        shares, sampled_views = _choose(chunks, samples, seed)
        with Progress("inspect", sum(count for _, count in shares), "labels", shown=self._progress, delay=2) as bar:
            for unit, views, counts in self._runs(shares):
                for view, count, labels in zip(
                    views, counts, self.store.unit_labels(unit, views, self.teacher), strict=True
                ):
                    statistics.add(*self._draw(unit, view, count, seed, labels))
                    bar.update(count)
        names = self.store.class_names or (self.data.class_names if self.data else None)
        return statistics.summary(names, names_of_classes(self.info, names), self._per_class), sampled_views

    def _runs(self, shares: list[tuple[Chunk, int]]) -> Iterator[tuple[UnitAddress, range, list[int]]]:
        """Consecutive views of one unit together, as far as they fit into READ_BYTES: a read has a fixed cost."""
        at = 0
        while at < len(shares):
            (unit, first), _ = shares[at]
            most = max(1, READ_BYTES // (unit.shape[1] * self.info.codec.nbytes_per_label))
            length = 1
            while length < most and at + length < len(shares) and shares[at + length][0] == (unit, first + length):
                length += 1
            yield unit, range(first, first + length), [count for _, count in shares[at : at + length]]
            at += length

    def _draw(
        self, unit: UnitAddress, view: int, count: int, seed: int, labels: TopKLabels
    ) -> tuple[TopKLabels, NDArray[np.int64] | None]:
        """``count`` random ones of a unit's labels under one view, with their hard labels."""
        ids = self.store.unit_ids(unit)
        if count < len(ids):
            rows = np.sort(random_order(np.arange(len(ids), dtype=np.int64) + unit.sample_start, seed, view)[:count])
            rows -= unit.sample_start
            labels, ids = labels[rows], ids[rows]
        return labels, None if self.data is None else self.data.targets[ids]


def _choose(chunks: list[Chunk], samples: int, seed: int) -> tuple[list[tuple[Chunk, int]], tuple[int, ...] | None]:
    """How many labels to look at of which chunks; and the views chosen, where it is not all labels."""
    sizes = np.array([unit.shape[1] for unit, _ in chunks], np.int64)
    if not samples or sizes.sum() <= samples:
        return list(zip(chunks, sizes.tolist(), strict=True)), None
    views: NDArray[np.int64] = np.unique([view for _, view in chunks])
    chosen = set(random_order(views, seed, 0)[:SAMPLED_VIEWS].tolist())
    kept = [number for number, (_, view) in enumerate(chunks) if view in chosen]
    # Rounded as running sums, so that the counts add up to what was asked for.
    upto = np.cumsum(sizes[kept])
    ends = upto * min(samples, int(upto[-1])) // upto[-1]
    counts = np.diff(ends, prepend=0).tolist()
    shares = [(chunks[number], count) for number, count in zip(kept, counts, strict=True) if count]
    return shares, tuple(sorted(chosen))


def class_of_target(info: TeacherInfo, num_targets: int) -> NDArray[np.int64] | None:
    """int64 [num_targets]: the class of a teacher's labels that each hard label is; None where that is not known."""
    if not info.keeps_classes:
        return np.arange(num_targets, dtype=np.int64)
    return None if info.class_map is None else np.array(info.class_map, np.int64)


def names_of_classes(info: TeacherInfo, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of the classes that a teacher's labels are over, from those of the dataset; None where none has one."""
    columns = None if names is None else class_of_target(info, len(names))
    if names is None or columns is None:
        return None
    known = dict(zip(columns.tolist(), names, strict=True))
    return tuple(known.get(number, str(number)) for number in range(info.codec.num_classes))
