"""LabelPlane: the labels of all samples of a store under one view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.kernels.sample_rows import sample_rows
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels, concatenate
from fastlabel.system.devices import pick_device


@dataclass(frozen=True, eq=False)
class LabelPlane:
    """The labels of all samples of a store under one view: `plane[ids]` gives `TopKLabels`.

    Attributes:
        labels: of the store's N samples, in the order in which they came into the store.
        rows: int32, the row of each sample of the dataset file, -1 where it is not labelled; None where all are, in
            the order of their ids.
        num_samples: samples in the dataset file.
    """

    labels: TopKLabels
    rows: Tensor | None
    num_samples: int

    def __post_init__(self) -> None:
        rows = len(self.labels) if self.rows is None else len(self.rows)
        if rows != self.num_samples:
            what = "labels" if self.rows is None else "rows"
            raise InputError(
                f"a plane has {rows} {what}, expected one for each of the file's {self.num_samples} samples"
            )

    @classmethod
    def from_numpy(
        cls, parts: Mapping[str, NDArray[Any]], codec: TopKCodec, ids: NDArray[np.int64], num_samples: int
    ) -> LabelPlane:
        """The plane of the codec's arrays [N, ...], by name, whose rows belong to `ids`, in any order."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in parts.items()}
        labels = codec.labels(tensors)
        if len(ids) == num_samples and bool((ids[1:] > ids[:-1]).all()):
            return cls(labels, None, num_samples)
        rows = np.full(num_samples, -1, np.int32)
        rows[ids] = np.arange(len(ids), dtype=np.int32)
        return cls(labels, torch.from_numpy(rows), num_samples)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.labels.plane)

    def to(self, device: str | torch.device) -> LabelPlane:
        """The same labels on another device."""
        device = pick_device(device)
        rows = None if self.rows is None else self.rows.to(device)
        return LabelPlane(self.labels.to(device), rows, self.num_samples)

    def __getitem__(self, ids: slice | ArrayLike | Tensor) -> TopKLabels:
        """Labels of B samples by their index in the dataset file, on the plane's device.

        Args:
            ids: int64 [B]; or one integer, which gives B = 1; or a slice of all samples of the file.

        Raises:
            InputError: ids are not integers, or one is outside of the dataset file.
            MissingLabelsError: a sample has no labels in this store.
        """
        # Labels are gathered when they are read: by then a caller may have changed the memory of their ids.
        index = _as_ids(ids, self.num_samples).to(self.labels.device, torch.int64, copy=True)
        rows, lowest, highest, missing = sample_rows(index, self.rows, self.num_samples)
        if lowest < 0 or highest >= self.num_samples:
            raise InputError(f"sample ids must be 0 to {self.num_samples - 1}; got {lowest} to {highest}")
        if missing >= 0:
            raise MissingLabelsError(
                f"sample {int(index[missing])} is not labelled in this store, which holds {len(self)} of "
                f"{self.num_samples} samples"
            )
        return self.labels.take(rows)

    def take(self, index_B: Tensor) -> TopKLabels:
        """As `plane[ids]` for int64 ids on its device that are known to be labelled: a GPU need not wait.

        Labels are gathered when they are read; the loss reads them out of the plane.
        """
        return self.labels.take(index_B if self.rows is None else self.rows[index_B].to(torch.int64))


def _as_ids(ids: slice | ArrayLike | Tensor, num_samples: int) -> Tensor:
    """Integers [B] of what a caller gave. InputError where it is something else."""
    try:
        index = torch.from_numpy(np.arange(num_samples)[ids].copy()) if isinstance(ids, slice) else torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        shown = repr(ids)
        raise InputError(f"sample ids are {shown[:60]}, expected integers, as a list, array or tensor") from None
    if index.numel() and (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool):
        raise InputError(f"sample ids have dtype {index.dtype}, expected integers; of a mask, give its nonzero ids")
    if index.ndim > 1:
        raise InputError(f"sample ids have shape {tuple(index.shape)}, expected [B]")
    return index.reshape(-1)


@dataclass(frozen=True, eq=False)
class PlaneStack:
    """The planes of M views of the same samples as one source of labels.

    Attributes:
        labels: of M * N rows: row m * N + n is row n of plane m.
        rows: as in `LabelPlane`, of the first plane.
        num_views: M.
    """

    labels: TopKLabels
    rows: Tensor | None
    num_views: int

    @classmethod
    def of(cls, planes: Sequence[LabelPlane]) -> PlaneStack:
        """Planes of one store and teacher, on one device; a single one is not copied."""
        first = planes[0]
        labels = first.labels if len(planes) == 1 else concatenate([plane.labels for plane in planes])
        return cls(labels, first.rows, len(planes))

    @property
    def tensors(self) -> list[Tensor]:
        """Those that hold the labels and, where there are rows, these."""
        return [*self.labels.plane] if self.rows is None else [*self.labels.plane, self.rows]

    def take(self, index_B: Tensor) -> TopKLabels:
        """B * M labels, the M of a sample next to each other, of int64 ids as `LabelPlane.take` has them."""
        rows = index_B if self.rows is None else self.rows[index_B].to(torch.int64)
        if self.num_views > 1:
            starts = torch.arange(self.num_views, device=rows.device) * (len(self.labels) // self.num_views)
            rows = (rows[:, None] + starts).flatten()
        return self.labels.take(rows)
