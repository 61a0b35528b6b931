"""Batch: what a loader hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlabel.labels.topk import TopKLabels


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B crops and their labels. Valid as long as it, or any tensor of it, is held.

    Of a loader with M views per image, M crops of each sample next to each other. `images, labels = batch` unpacks it;
    labels are the hard ones where there are no soft ones.

    Attributes:
        images: uint8 [B, 3, S, S], channels last in memory; the models of fastlabel normalise them themselves.
        labels: soft labels of these very crops; None for a loader without a store.
        targets: int64 [B], hard labels.
        ids: int64 [B], index of each sample in the dataset file.
        second_targets, own_share: of mixed views the hard label of the sample that a crop is mixed with, int64 [B], and
            the share of `targets`, float32 [B]; None of others.
    """

    images: Tensor
    labels: TopKLabels | None
    targets: Tensor
    ids: Tensor
    second_targets: Tensor | None = None
    own_share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Tensor | TopKLabels]:
        yield self.images
        yield self.targets if self.labels is None else self.labels

    def __repr__(self) -> str:
        labels = "none" if self.labels is None else f"top {self.labels.k} of {self.labels.num_classes} classes"
        side = self.images.shape[-1]
        return f"Batch({len(self)} crops of {side} x {side} pixels on {self.images.device}, soft labels: {labels})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device. `non_blocking`: the host does not wait for copies of pinned memory."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking)
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking), labels)

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory of the host, as DataLoader(pin_memory=True) asks for; CUDA only."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return self._map(lambda tensor: tensor.pin_memory(), labels)

    def _map(self, change: Callable[[Tensor], Tensor], labels: TopKLabels | None) -> Batch:
        second, share = (None if part is None else change(part) for part in (self.second_targets, self.own_share))
        return Batch(change(self.images), labels, change(self.targets), change(self.ids), second, share)
