"""compare_stores: how the labels of two stores differ, on the samples and views that both have."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.labels.topk import TopKLabels
from fastlabel.sampling import random_order
from fastlabel.store.store import LabelStore
from fastlabel.store.units import address
from fastlabel.system.arguments import at_least
from fastlabel.system.progress import Progress

TEMPERATURES = (1.0, 4.0, 20.0)
MOST_VIEWS, VALUES_AT_ONCE = 8, 1 << 22


@dataclass(frozen=True)
class Divergence:
    """Mean KL in nats of labels at a temperature, in both directions; inf where one gives 0 to what the other does not.

    Attributes:
        forward: KL(A || B). backward: KL(B || A). uniform: KL(A || uniform), which says how much there is to lose.
    """

    temperature: float
    forward: float
    backward: float
    uniform: float


@dataclass(frozen=True)
class StoreComparison:
    """What differs.

    Attributes:
        samples, views: that both stores have. labels: compared.
        same_crops: whether the crops that were labelled are the same; None where the records cannot tell.
        agreement: share of labels with the same most probable class.
        equal: share of labels that are the same to the last code, where both keep the same K; else None.
        bytes: of the files of each store.
    """

    store_a: str
    store_b: str
    samples: int
    views: int
    labels: int
    same_crops: bool | None
    k: tuple[int, int]
    agreement: float
    equal: float | None
    divergences: tuple[Divergence, ...]
    bytes: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON; an infinite divergence is None."""
        found = asdict(self)
        for one in found["divergences"]:
            one.update({name: value if math.isfinite(value) else None for name, value in one.items()})
        return found


def compare_stores(
    store_a: LabelStore | str | os.PathLike[str],
    store_b: LabelStore | str | os.PathLike[str],
    *,
    teacher_a: int = 0,
    teacher_b: int = 0,
    samples: int = 2048,
    seed: int = 0,
    progress: bool = False,
) -> StoreComparison:
    """Compare the labels that two stores give to the same samples in views of the same number.

    Args:
        samples: so many random ones in each of at most 8 views; 0 takes all samples in all views.

    Raises:
        InputError: the stores are of other datasets or other classes, or share no sample.
        MissingLabelsError, StoreError: labels are lacking or damaged.
    """
    pair = [store if isinstance(store, LabelStore) else LabelStore.open(store) for store in (store_a, store_b)]
    teachers, samples = (teacher_a, teacher_b), at_least("samples", samples, 0)
    ids, views = _common(pair, teachers, samples, seed)
    tally = _Tally()
    with Progress("compare", len(views), "views", shown=progress) as bar:
        for view in views:
            planes = [store.plane(view, teacher) for store, teacher in zip(pair, teachers, strict=True)]
            step = max(1, VALUES_AT_ONCE // planes[0].labels.num_classes)
            for start in range(0, len(ids), step):
                tally.add(*(plane[ids[start : start + step]] for plane in planes))
            bar.update()
    infos = [store.manifest.teachers[teacher] for store, teacher in zip(pair, teachers, strict=True)]
    return StoreComparison(
        str(pair[0].path),
        str(pair[1].path),
        int(np.intersect1d(pair[0].ids, pair[1].ids).size),
        min(store.num_views for store in pair),
        tally.labels,
        _same_crops(pair, teachers),
        (infos[0].codec.k, infos[1].codec.k),
        tally.agreeing / tally.labels,
        tally.equal / tally.labels if infos[0].codec == infos[1].codec else None,
        tally.divergences(),
        (_bytes(pair[0].path), _bytes(pair[1].path)),
    )


def _common(
    pair: list[LabelStore], teachers: tuple[int, int], samples: int, seed: int
) -> tuple[NDArray[np.int64], list[int]]:
    """Samples and views to look at."""
    for store, teacher in zip(pair, teachers, strict=True):
        store.check_teacher(teacher)
    one, other = (store.manifest.dataset for store in pair)
    if one != other:
        raise InputError(
            f"{pair[0].path} and {pair[1].path} were made from other datasets ({one.num_samples:,} and "
            f"{other.num_samples:,} samples, fingerprints {one.fingerprint[:12]} and {other.fingerprint[:12]})"
        )
    first, second = (
        store.manifest.teachers[teacher].codec.num_classes for store, teacher in zip(pair, teachers, strict=True)
    )
    if first != second:
        raise InputError(f"the labels have {first} and {second} classes: only labels of the same classes compare")
    ids = np.intersect1d(pair[0].ids, pair[1].ids)
    if not len(ids):
        raise InputError(f"{pair[0].path} and {pair[1].path} have no sample in common")
    views = list(range(min(store.num_views for store in pair)))
    if samples:
        ids = np.sort(random_order(ids, seed, 0)[:samples])
        views = sorted(random_order(np.arange(len(views)), seed, 1)[:MOST_VIEWS].tolist())
    return ids, views


class _Tally:
    def __init__(self) -> None:
        self.labels, self.agreeing, self.equal = 0, 0, 0
        self._sums = torch.zeros(len(TEMPERATURES), 3, dtype=torch.float64)

    def add(self, one: TopKLabels, other: TopKLabels) -> None:
        self.labels += len(one)
        # uint16 has no comparison in torch.
        first, second = (labels.classes.to(torch.int64) for labels in (one, other))
        self.agreeing += int((first[:, 0] == second[:, 0]).sum())
        if first.shape == second.shape:
            tails = (one.tail.to(torch.int64) == other.tail.to(torch.int64)).all(dim=1)
            self.equal += int(((first == second) & (one.codes == other.codes)).all(dim=1).logical_and(tails).sum())
        for place, temperature in enumerate(TEMPERATURES):
            p_BC, q_BC = (labels.dense(temperature).double() for labels in (one, other))
            uniform = math.log(p_BC.shape[1]) - torch.special.entr(p_BC).sum(dim=1)
            for column, value in enumerate((_kl(p_BC, q_BC), _kl(q_BC, p_BC), uniform)):
                self._sums[place, column] += value.sum()

    def divergences(self) -> tuple[Divergence, ...]:
        means = (self._sums / self.labels).tolist()
        return tuple(Divergence(one, *values) for one, values in zip(TEMPERATURES, means, strict=True))


def _kl(p_BC: Tensor, q_BC: Tensor) -> Tensor:
    """KL(p || q) of each row, nats; rows of float32 probabilities that are the same give 0."""
    terms = torch.where(p_BC > 0, p_BC * (p_BC.log() - q_BC.log()), 0)
    return terms.sum(dim=1).clamp(min=0)


def _same_crops(pair: list[LabelStore], teachers: tuple[int, int]) -> bool | None:
    """What the digests of the records say, where both stores cut their samples into units alike."""
    one, other = pair
    seen = 0
    for unit in one.units():
        twin = address(other.manifest, unit.row, unit.column)
        alike = twin is not None and (twin.view_start, twin.sample_start, twin.sample_stop) == (
            unit.view_start,
            unit.sample_start,
            unit.sample_stop,
        )
        if twin is None or not alike or not np.array_equal(one.unit_ids(unit), other.unit_ids(twin)):
            continue
        records = [store.record(at, number) for store, at, number in zip(pair, (unit, twin), teachers, strict=True)]
        if None in records:
            continue
        digests = [record.boxes for record in records if record is not None]
        if any(a != b for a, b in zip(*digests, strict=False)):
            return False
        seen += 1
    return True if seen else None


def _bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
