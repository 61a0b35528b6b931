"""Whether a teacher's first labels look like those of a teacher of this dataset: its classes, and how sure it is."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.store.manifest import TeacherInfo

logger = logging.getLogger(__name__)
FLAT = 0.98  # of the entropy of equal probabilities
LOOKED_AT = 1024  # labels whose entropy is computed


def warn_of_doubts(info: TeacherInfo, labels: dict[str, NDArray[Any]], targets_N: NDArray[np.int64]) -> None:
    """Log what is odd about the labels of a unit, arrays [V, N, ...], beside the dataset's classes of its samples."""
    for doubt in (_of_agreement(info, labels["classes"][..., 0], targets_N), _of_entropy(info, labels)):
        if doubt is not None:
            logger.warning("teacher %s: %s", info.name, doubt)


def _of_agreement(info: TeacherInfo, top_VN: NDArray[Any], targets_N: NDArray[np.int64]) -> str | None:
    if info.keeps_classes:
        if info.class_map is None:
            return None
        targets_N = np.asarray(info.class_map)[targets_N]
    wanted, num_classes = np.broadcast_to(targets_N, top_VN.shape), info.codec.num_classes
    share, chance = float((top_VN == wanted).mean()), 1 / num_classes
    if share > chance + min(2 * chance, 0.2):
        return None
    text = (
        f"its top class is the class of the image for only {share:.1%} of {top_VN.size:,} crops, chance is {chance:.1%}"
    )
    # What each class is called most often: where only the order is another, that is one of its own, nearly each time.
    pairs, counts = np.unique(wanted.astype(np.int64) * num_classes + top_VN, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    classes, first = np.unique(pairs[order] // num_classes, return_index=True)
    usual = (pairs[order] % num_classes)[first]
    kept = counts[order][first].sum() / counts.sum()
    if kept > max(0.5, 2 * share) and len(set(usual)) > 0.8 * len(usual):
        shown = ", ".join(f"{a} is called {b}" for a, b in zip(classes, usual, strict=True) if a != b)[:80]
        return f"{text}; its classes seem to be in another order ({shown} ...): say which is which with --class-map"
    return f"{text}: is it a teacher of this dataset, with its classes in this order and its normalisation?"


def _of_entropy(info: TeacherInfo, labels: dict[str, NDArray[Any]]) -> str | None:
    some = {name: torch.from_numpy(array.reshape(-1, *array.shape[2:])[:LOOKED_AT]) for name, array in labels.items()}
    found = info.codec.labels(some)
    largest = math.log(info.codec.num_classes)
    parts = [found[slice(start, start + 64)] for start in range(0, len(found), 64)]
    entropies = [float(torch.special.entr(part.dense()).sum()) for part in parts]
    mean = sum(entropies) / len(found)
    if mean < FLAT * largest:
        return None
    return (
        f"its labels are nearly flat: their mean entropy is {mean:.3f} nats, that of equal probabilities "
        f"{largest:.3f}; is it trained, and does it give logits of the usual scale?"
    )
