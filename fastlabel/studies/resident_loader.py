"""Epochs over images in memory, for `train.Trainer`: no files; random numbers by (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from fastlabel.labels.loss import SoftLabels
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.in_memory import ResidentImages

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class ResidentBatch:
    """Some rows of images in memory.

    Attributes:
        images: float32 [B, 3, S, S] as a network's first convolution takes them.
        labels: their soft labels, if they have any.
        targets: int64 [B], hard labels.
        ids: int64 [B], their rows in memory.
    """

    images: Tensor
    labels: SoftLabels | None
    targets: Tensor
    ids: Tensor


def epoch_random(seed: int, epoch: int) -> Generator:
    """The random numbers of one epoch, the same on every machine."""
    key = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(key) >> 1)


class ResidentLoader:
    """All images once an epoch, augmented, in an order that (seed, epoch) gives.

    Args:
        data: the images, on their device.
        labels: a soft label for each, in their order; None for hard ones.
        batch_size: images in a batch.
        augment: of each batch.
        seed: of the order and the augmentation of every epoch.
        drop_last: leave out the last batch when it is smaller.
    """

    def __init__(
        self,
        data: ResidentImages,
        labels: SoftLabels | None,
        batch_size: int,
        augment: SiameseAugmentation,
        seed: int,
        drop_last: bool = False,
    ) -> None:
        self._data, self._labels, self._batch_size = data, labels, batch_size
        self._augment, self._seed = augment, seed
        whole, rest = divmod(len(data), batch_size)
        self._batches = whole + (rest > 0 and not drop_last)
        self._epoch = self._done = 0

    def __len__(self) -> int:
        return self._batches

    def samples_in(self, batch: int) -> int:
        """Images in batch 0, 1, ... of an epoch."""
        return min(self._batch_size, len(self._data) - batch * self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration gives: what is left of it, where the state loaded stands in it."""
        if epoch != self._epoch:
            self._epoch, self._done = epoch, 0

    def __iter__(self) -> Iterator[ResidentBatch]:
        data, random = self._data, epoch_random(self._seed, self._epoch)
        order = torch.randperm(len(data), generator=random).to(data.images.device)
        for number, rows in enumerate(order.split(self._batch_size)[: self._batches]):
            # Of batches that are behind us too: their random numbers come before those of the next.
            images = self._augment(data.images[rows], random)
            if number < self._done:
                continue
            self._done += 1
            yield ResidentBatch(images, None if self._labels is None else self._labels[rows], data.targets[rows], rows)
        self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Which epoch, and how many batches of it were handed out."""
        return {"epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batches that were left when the state was taken."""
        self._epoch, self._done = state["epoch"], state["batches"]


def whole_batches(data: ResidentImages) -> list[ResidentBatch]:
    """Images in memory as they are, for `train.evaluate.Evaluator`; nothing is copied."""
    rows = torch.arange(len(data), device=data.images.device)
    parts = (values.split(EVALUATION_BATCH) for values in (data.images, data.targets, rows))
    return [ResidentBatch(images, None, targets, ids) for images, targets, ids in zip(*parts, strict=True)]
