"""Which samples, in which order, under which view: pure functions of a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastlabel.errors import InputError
from fastlabel.kernels import view_boxes as kernel
from fastlabel.system.arguments import integer, integer_between, integer_vector
from fastlabel.views import MAX_SEED, MAX_VIEW

Int64s = npt.NDArray[np.int64]
STREAM_ORDER, STREAM_VIEW_ORDER, STREAM_SHUFFLE = 1, 2, 3  # of the random numbers; 0 is that of the boxes


def images_per_class(
    targets: npt.ArrayLike,
    n: int,
    seed: int,
    *,
    among: npt.ArrayLike | None = None,
    num_classes: int | None = None,
) -> Int64s:
    """The sorted ids of `n` random samples of every class.

    Samples rank within their class by a hash of (seed, id), so for one seed a smaller `n` is a subset of a
    larger one, on every machine. `targets` holds the class of every sample; `among` limits the choice to
    those sample ids; `num_classes` (default: the largest target + 1) says which classes there are. Raises
    InputError naming a class with fewer than `n`.
    """
    targets_N = integer_vector("targets", targets)
    if integer("the number of images per class", n) < 1:
        raise InputError(f"the number of images per class must be 1 or more, not {n}")
    if not 0 <= integer("a seed", seed) < MAX_SEED:
        raise InputError(f"a seed must lie between 0 and 2**64 - 1, not {seed}")
    if len(targets_N) and targets_N.min() < 0:
        raise InputError(f"targets must be classes from 0 on, found {targets_N.min()}")
    ids = np.arange(len(targets_N)) if among is None else np.unique(integer_vector("sample ids", among))
    if len(ids) and (ids[0] < 0 or ids[-1] >= len(targets_N)):
        raise InputError(f"sample ids must lie between 0 and {len(targets_N) - 1}, not {ids[0]} to {ids[-1]}")
    classes = num_classes if num_classes is not None else int(targets_N.max(initial=-1)) + 1
    counts = np.bincount(targets_N[ids], minlength=classes)
    short = np.flatnonzero(counts[:classes] < n)
    if len(short):
        raise InputError(f"class {short[0]} has {counts[short[0]]} images to choose from, {n} per class were asked for")
    order = np.lexsort((_hash(ids, seed), targets_N[ids]))
    starts = np.cumsum(counts) - counts
    ranks = np.arange(len(ids)) - np.repeat(starts, counts)
    return np.sort(ids[order[ranks < n]])


def _hash(ids: Int64s, seed: int) -> npt.NDArray[np.uint64]:
    key = _splitmix64(np.array([seed], dtype=np.uint64))
    return _splitmix64(ids.astype(np.uint64) ^ key)


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # One-to-one on 64 bits, so two ids never tie.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_order(ids: Int64s, seed: int, epoch: int) -> Int64s:
    """`ids` in the random order of an epoch; the same on every machine and for every number of workers."""
    seed, epoch = integer_between("seed", seed, 0, MAX_SEED), integer_between("epoch", epoch, 0, MAX_VIEW)
    return ids[np.argsort(kernel.random_keys(seed, STREAM_ORDER, epoch, ids), kind="stable")]


def view_of_epoch(epoch: int, num_views: int, seed: int) -> int:
    """The view that an epoch trains on: a permutation of the views by seed, cycled."""
    epoch = integer_between("epoch", epoch, 0, MAX_VIEW * MAX_VIEW)
    views = np.arange(integer_between("num_views", num_views, 1, MAX_VIEW), dtype=np.int64)
    keys = kernel.random_keys(integer_between("seed", seed, 0, MAX_SEED), STREAM_VIEW_ORDER, 0, views)
    return int(views[np.argsort(keys, kind="stable")][epoch % num_views])
