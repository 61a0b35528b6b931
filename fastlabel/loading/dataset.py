"""SoftLabelDataset: crops and their labels by sample, for a DataLoader of one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numba
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.labels.topk import concatenate
from fastlabel.loading.batch import Batch
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store.store import LabelStore
from fastlabel.system.arguments import integer_between, integer_vector
from fastlabel.views import MAX_VIEW

AT_ONCE = 32  # samples that are decoded together: their memory is taken once


class SoftLabelDataset(Dataset[Batch]):
    """A map-style dataset: item i is the crop of sample `ids[i]` in this epoch's view, and that crop's stored label.

    For `torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate, ...)`, with any sampler, batch size and number
    of workers: an image and its label cannot come apart. Call `set_epoch` before each epoch, as of a
    DistributedSampler; workers that persist hear of it. Epoch e shows the view that `SoftLabelLoader` shows then with
    the same seed, whose own threads are faster.

    Args:
        store: the label store.
        data: the `.beton` that it was made from.
        seed: of the order of the views.
        indices, teacher, class_map, size: as of `SoftLabelLoader`; `size` is one side for all epochs.

    Raises:
        InputError, ManifestMismatchError, MissingLabelsError: as `SoftLabelLoader`.
    """

    def __init__(
        self,
        store: LabelStore | str | os.PathLike[str],
        data: Beton | str | os.PathLike[str],
        *,
        seed: int = 0,
        indices: ArrayLike | None = None,
        teacher: int = 0,
        class_map: Sequence[int] | None = None,
        size: int | None = None,
    ) -> None:
        if store is None:
            raise InputError("a SoftLabelDataset has labels: expected the path of a store, or a LabelStore")
        self._loader = SoftLabelLoader(
            data,
            store,
            AT_ONCE,
            "cpu",
            seed,
            indices=indices,
            teacher=teacher,
            shuffle=False,
            class_map=class_map,
            rank=0,  # a sampler divides the samples among ranks
            world_size=1,
            size=size,
        )
        self.ids = self._loader.ids
        # Workers that live for several epochs share it.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a copy has an epoch of its own, a worker's is shared already

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"SoftLabelDataset({len(self)} samples of {self._loader.beton.path}, epoch {self.epoch})"

    @property
    def epoch(self) -> int:
        """The epoch whose view it shows."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; in the process that made the DataLoader, between two epochs."""
        self._epoch[0] = integer_between("epoch", epoch, 0, MAX_VIEW)

    def __getitem__(self, row: int) -> Batch:
        """A batch of one crop."""
        return self._read([row])

    def __getitems__(self, rows: Sequence[int]) -> _Collated:
        """What a DataLoader asks for: a batch at once, for `collate`."""
        return _Collated(self._read(rows))

    @staticmethod
    def collate(items: _Collated | Sequence[Batch]) -> Batch:
        """One batch: the `collate_fn` of the DataLoader."""
        return items.batch if isinstance(items, _Collated) else join(items)

    def _read(self, rows: Sequence[int]) -> Batch:
        index = integer_vector("rows", rows)
        outside = index[(index < -len(self)) | (index >= len(self))]
        if outside.size:
            raise IndexError(f"row {outside[0]} of a dataset of {len(self)} samples")
        if get_worker_info() is not None:  # its process is one of several that share the cores
            numba.set_num_threads(1)
        ids, epoch = self.ids[index], self.epoch
        step = min(AT_ONCE, len(self.ids))  # a loader's batch is no larger than its samples
        parts = [self._loader.read(ids[at : at + step], epoch) for at in range(0, len(ids), step)]
        return join(parts)


class _Collated(Sequence[Any]):
    """A whole batch in place of its items; says what to do where a collate function takes it apart."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, row: Any) -> Any:
        raise InputError("give the DataLoader collate_fn=dataset.collate: a SoftLabelDataset makes whole batches")


def join(parts: Sequence[Batch]) -> Batch:
    """Several batches as one, in memory of its own."""
    labels = [part.labels for part in parts if part.labels is not None]
    images = torch.cat([part.images for part in parts]).contiguous(memory_format=torch.channels_last)
    columns = (_joined([getattr(part, name) for part in parts]) for name in ("second_targets", "own_share"))
    targets, ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("targets", "ids"))
    return Batch(images, concatenate(labels) if labels else None, targets, ids, *columns)


def _joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    present = [column for column in columns if column is not None]
    return torch.cat(present) if present else None
