"""SoftLabelDataset: what the loader shows, by sample, in DataLoaders of any kind."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset

from fastlabel import Mixing, SoftLabelDataset, SoftLabelLoader
from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.loading import dataset as module

# Python 3.12 warns of every fork of a process that has threads, which this one has.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
MakeStore = Callable[..., Path]
Row = tuple[bytes, list[float], int]


def rows(batches: Any) -> dict[int, Row]:
    """Pixels, probabilities and hard label of each sample."""
    found = {}
    for batch in batches:
        probs = batch.labels.dense()
        for at, sample in enumerate(batch.ids.tolist()):
            found[sample] = (batch.images[at].numpy().tobytes(), probs[at].tolist(), int(batch.targets[at]))
    return found


def served(data: SoftLabelDataset, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, collate_fn=data.collate, batch_size=3, **options)


@pytest.mark.parametrize("mixing", [None, Mixing.of(cutmix=1.0, block=4)])
def test_an_epoch_is_that_of_the_loader(photos: Path, make_store: MakeStore, mixing: Mixing | None) -> None:
    store = make_store(k=3, mixing=mixing) if mixing else make_store()
    loader, data = SoftLabelLoader(photos, store, 4, seed=5), SoftLabelDataset(store, photos, seed=5)
    assert len(data) == len(loader.ids)
    for epoch in (0, 1, 4):
        loader.set_epoch(epoch)
        data.set_epoch(epoch)
        expected = rows(loader)
        assert rows(served(data, shuffle=True)) == expected
        assert rows([data[at] for at in range(len(data))]) == expected
        assert rows([data.collate([data[at] for at in range(len(data))])]) == expected


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.slow
def test_workers_that_persist_hear_of_the_epoch(photos: Path, make_store: MakeStore, context: str) -> None:
    data = SoftLabelDataset(make_store(), photos)
    here = []
    for epoch in range(3):
        data.set_epoch(epoch)
        here.append(rows(served(data)))
    assert here[0] != here[1]
    workers = served(data, num_workers=2, persistent_workers=True, multiprocessing_context=context)
    for epoch in (0, 2, 1):
        data.set_epoch(epoch)
        assert rows(workers) == here[epoch]


def test_large_batches_subsets_and_repeated_rows(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    data = SoftLabelDataset(make_store(), photos)
    everything = rows([data.collate(data.__getitems__(range(len(data))))])
    again = data.collate(data.__getitems__([0, 0, -1, 2, 0]))
    assert again.ids.tolist() == data.ids[[0, 0, -1, 2, 0]].tolist()
    assert rows([again]) == {sample: everything[sample] for sample in again.ids.tolist()}
    assert again.images.is_contiguous(memory_format=torch.channels_last)
    some = Subset(data, [4, 1])
    (batch,) = DataLoader(some, batch_size=2, collate_fn=data.collate)
    assert batch.ids.tolist() == data.ids[[4, 1]].tolist()


def test_samplers_of_two_ranks_see_each_sample_once(photos: Path, make_store: MakeStore) -> None:
    data = SoftLabelDataset(make_store(), photos, indices=[5, 2, 0, 3])
    seen = [
        sample
        for rank in range(2)
        for batch in served(data, sampler=DistributedSampler(data, num_replicas=2, rank=rank))
        for sample in batch.ids.tolist()
    ]
    assert sorted(seen) == [0, 2, 3, 5]


def test_a_pickled_dataset_keeps_its_epoch(photos: Path, make_store: MakeStore) -> None:
    data = SoftLabelDataset(make_store(), photos, size=8)
    data.set_epoch(2)
    copy = pickle.loads(pickle.dumps(data))
    assert copy._epoch.is_shared() and copy.epoch == 2 and rows(served(copy)) == rows(served(data))
    assert data[0].images.shape[-1] == 8 and "epoch 2" in repr(copy)


def test_rows_may_repeat_more_often_than_there_are_samples(photos: Path, make_store: MakeStore) -> None:
    data = SoftLabelDataset(make_store(), photos, indices=[1, 2])
    assert data.collate(data.__getitems__([0, 1] * 40)).ids.tolist() == [1, 2] * 40


def test_what_cannot_be_is_said(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    data = SoftLabelDataset(store, photos)
    with pytest.raises(InputError, match=r"collate_fn=dataset\.collate"):
        next(iter(DataLoader(data, batch_size=2)))
    for row in (len(data), -len(data) - 1):
        with pytest.raises(IndexError, match=f"row {row} of a dataset"):
            data[row]
    with pytest.raises(InputError, match="has labels"):
        SoftLabelDataset(None, photos)  # type: ignore[arg-type]
    with pytest.raises(MissingLabelsError, match="not labelled in this store"):
        SoftLabelDataset(store, photos, indices=[10_000])
    with pytest.raises(InputError, match="epoch"):
        data.set_epoch(-1)
    with pytest.raises(InputError, match="more than a batch"):
        data._loader.read(np.zeros(33, np.int64), 0)
