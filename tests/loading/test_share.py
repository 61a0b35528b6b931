"""Without a word, every rank takes its own part of a batch; views that a teacher lacks are said at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.labels.topk import TopKLabels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.loading.share import Share
from fastlabel.system.ranks import Ranks
from tests.stores import make_teacher

MakeStore = Callable[..., Path]


@pytest.mark.fault("11.7 ranks that all get the same batches")
def test_a_loader_takes_its_rank_from_torchrun_or_the_process_group(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    whole = [batch.ids.tolist() for batch in SoftLabelLoader(photos, store, batch_size=5)]
    parts = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader = SoftLabelLoader(photos, store, batch_size=5)
        assert loader.share == Share(rank, 2)
        parts.append([batch.ids.tolist() for batch in loader])
        given = SoftLabelLoader(photos, store, batch_size=5, rank=0, world_size=1)
        assert [batch.ids.tolist() for batch in given] == whole
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    assert SoftLabelLoader(photos, store, batch_size=5).share == Share(2, 3) and Ranks.current().rank == 2


@pytest.mark.fault("11.7 ranks that all get the same batches")
def test_a_rank_without_a_number_of_ranks_is_refused() -> None:
    with pytest.raises(InputError, match="world_size is given without rank: give both"):
        Share.choose(None, 2)
    with pytest.raises(InputError, match="rank is given without world_size: give both"):
        Share.choose(1, None)


@pytest.mark.fault("11.7 a second teacher that lacks views")
def test_a_teacher_that_lacks_views_of_another_one_is_said_at_once(photos: Path, make_store: MakeStore) -> None:
    first, second = make_teacher(name="first"), make_teacher(seed=1, name="second")
    store = make_store(views=2, teachers=[first, second])
    assert len(list(SoftLabelLoader(photos, store, batch_size=12, teacher=1))) == 1
    make_store(views=4, teachers=[first])
    with pytest.raises(MissingLabelsError, match=r"teacher 1 lacks 2 of the 4 views, which teacher 0 has: 2, 3; label"):
        SoftLabelLoader(photos, store, batch_size=12, teacher=1)
    assert len(list(SoftLabelLoader(photos, store, batch_size=12))) == 1
    make_store(views=4, teachers=[second])
    assert len(list(SoftLabelLoader(photos, store, batch_size=12, teacher=1))) == 1


def test_a_batch_unpacks_moves_and_says_what_it_is(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    batch = next(iter(loader))
    images, labels = batch
    assert images is batch.images and labels is batch.labels and isinstance(labels, TopKLabels)
    assert repr(batch) == "Batch(5 crops of 16 x 16 pixels on cpu, soft labels: top 2 of 3 classes)"
    there = batch.to("cpu", non_blocking=True)
    assert torch.equal(there.images, images) and there.ids is batch.ids and len(there) == 5
    bare = SoftLabelLoader(photos, None, batch_size=5, policy=loader.policy)
    images, targets = next(iter(bare))
    assert isinstance(targets, torch.Tensor) and targets.dtype == torch.int64
    assert repr(next(iter(bare))).endswith("soft labels: none)")


def test_training_loops_find_what_they_ask_a_dataloader_for(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    assert (loader.batch_size, loader.dataset.num_samples, len(loader)) == (5, 12, 3)
    loader.sampler.set_epoch(7)
    assert loader.state_dict()["epoch"] == 7
    assert repr(loader).startswith("SoftLabelLoader(3 batches of 5 crops of ") and "teacher 0" in repr(loader)


def test_one_sample_a_slice_and_all_of_a_plane(photos: Path, make_store: MakeStore) -> None:
    from fastlabel.store.store import LabelStore

    plane = LabelStore.open(make_store()).plane(1)
    everything = plane[range(12)].dense()
    assert torch.equal(plane[:].dense(), everything) and torch.equal(plane[5].dense(), everything[5:6])
    assert torch.equal(plane[10:2:-3].dense(), everything[[10, 7, 4]])
    again = pickle.loads(pickle.dumps(plane[[3, 1]]))
    assert type(again) is TopKLabels and torch.equal(again.dense(), everything[[3, 1]])
