"""A loader goes on exactly where its state was taken, and several ranks share each batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.dataset.beton import Beton
from fastlabel.errors import ImageDecodeError, InputError
from fastlabel.loading.loader import Batch, SoftLabelLoader
from fastlabel.loading.share import Share
from fastlabel.views import ViewPolicy
from tests.conftest import make_photo_folder
from tests.stores import make_teacher, write_photos

MakeStore = Callable[..., Path]
Seen = tuple[list[int], torch.Tensor, torch.Tensor]


def seen(batches: Iterable[Batch]) -> list[Seen]:
    """What a batch shows: ids, pixels, and probabilities."""
    return [
        (batch.ids.tolist(), batch.images.clone(), batch.labels.dense())
        for batch in batches
        if batch.labels is not None
    ]


def same(found: list[Seen], wanted: list[Seen]) -> bool:
    return len(found) == len(wanted) and all(
        one[0] == other[0] and torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
        for one, other in zip(found, wanted, strict=True)
    )


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(state)))


@pytest.mark.parametrize("drop_last", [False, True])
def test_what_was_left_comes_next_for_every_place(photos: Path, make_store: MakeStore, drop_last: bool) -> None:
    """The state taken after every number of batches, in the loop and after it, taken up with other workers."""
    store = make_store()
    loader = SoftLabelLoader(photos, store, batch_size=5, seed=3, drop_last=drop_last)
    states, shown = [loader.state_dict()], []
    for _ in range(2):
        for batch in loader:
            shown += seen([batch])
            states.append(loader.state_dict())
        states.append(loader.state_dict())
    per_epoch = len(loader)
    wanted = shown + seen(loader)
    # After the last batch and after the iteration are two places: in one the epoch has yet to end, with no batch.
    assert len(states) == 2 * (per_epoch + 1) + 1
    for number, state in enumerate(states):
        epoch, done = divmod(number, per_epoch + 1)
        other = SoftLabelLoader(photos, store, batch_size=5, seed=3, drop_last=drop_last, num_workers=1 + number % 2)
        other.load_state_dict(through_json(state))
        assert other.state_dict() == state
        assert (state["epoch"], state["batches"]) == (epoch, done)
        assert same(seen(other), wanted[epoch * per_epoch + done : (epoch + 1) * per_epoch])
        if epoch < 2:
            assert same(seen(other), wanted[(epoch + 1) * per_epoch : (epoch + 2) * per_epoch])


def test_a_second_resumption_in_the_same_epoch(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    wanted = seen(SoftLabelLoader(photos, store, batch_size=2))
    state, found = None, []
    for _ in range(3):
        loader = SoftLabelLoader(photos, store, batch_size=2)
        if state is not None:
            loader.load_state_dict(state)
        for batch in islice(loader, 2):
            found += seen([batch])
            state = loader.state_dict()
    assert state is not None and len(json.dumps(state)) < 600
    assert same(found, wanted)


def test_an_epoch_that_was_left_counts_as_begun(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    for _ in loader:
        break
    left = loader.state_dict()
    assert (left["epoch"], left["batches"]) == (0, 1)
    rest = seen(loader)
    loader.set_epoch(1)
    assert same(seen(loader), rest)
    loader.load_state_dict(left)
    assert [len(batch) for batch in loader] == [5, 2]


def test_set_epoch_keeps_the_place_in_that_epoch_only(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    state = loader.state_dict() | {"epoch": 4, "batches": 2}
    loader.load_state_dict(state)
    loader.set_epoch(4)
    assert loader.state_dict() == state and [len(batch) for batch in loader] == [2]
    loader.set_epoch(4)
    assert loader.state_dict()["batches"] == 0 and [len(batch) for batch in loader] == [5, 5, 2]
    loader.load_state_dict(state)
    loader.set_epoch(3)
    assert loader.state_dict()["epoch"] == 3 and len(list(loader)) == 3
    # In the loop, it is about the next iteration.
    for _ in loader:
        loader.set_epoch(9)
        assert loader.state_dict() == state | {"batches": 1}
        break
    next(iter(loader))
    assert loader.state_dict()["epoch"] == 9


def test_a_state_taken_up_in_the_loop_is_for_the_next_iteration(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    first = loader.state_dict()
    for number, _ in enumerate(loader):
        if number == 1:
            loader.load_state_dict(first | {"batches": 2})
    assert loader.state_dict() == first | {"batches": 2}
    assert [len(batch) for batch in loader] == [2]


def test_what_was_handed_out_is_not_decoded_again(tmp_path: Path) -> None:
    photos = write_photos(make_photo_folder(tmp_path / "photos"), tmp_path / "photos.beton")
    beton = Beton.open(photos)
    with open(photos, "r+b") as file:
        file.seek(int(beton.offsets[1]))
        file.write(bytes(int(beton.nbytes[1])))
    loader = SoftLabelLoader(photos, None, batch_size=5, policy=ViewPolicy.center(16), shuffle=False)
    with pytest.raises(ImageDecodeError, match="sample 1 "):
        list(loader)
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "batches": 1})
    assert [batch.ids.tolist() for batch in loader] == [[5, 6, 7, 8, 9], [10, 11]]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_slices_of_ranks_make_up_the_batches(count: int, batch_size: int, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, batch_size))
    ids = np.random.default_rng(count).permutation(count).astype(np.int64)
    shares = [Share(rank, world_size).of(ids, batch_size) for rank in range(world_size)]
    places = [0] * world_size
    for start in range(0, count, batch_size):
        batch = ids[start : start + batch_size]
        sizes = [len(range(rank, len(batch), world_size)) for rank in range(world_size)]
        slices = [share[at : at + size] for share, at, size in zip(shares, places, sizes, strict=True)]
        assert np.concatenate(slices).tolist() == batch.tolist()
        places = [at + size for at, size in zip(places, sizes, strict=True)]
        # The image loader cuts a rank's share into equal pieces: only the last may be smaller.
        full = [len(range(rank, batch_size, world_size)) for rank in range(world_size)]
        assert len(batch) < batch_size or sizes == full
        assert all(size <= most for size, most in zip(sizes, full, strict=True))
    assert places == [len(share) for share in shares]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_each_batch(photos: Path, make_store: MakeStore, world_size: int) -> None:
    """12 samples in batches of 5: of the last two, some of 3 or 5 ranks get none."""
    store = make_store()
    wanted = list(SoftLabelLoader(photos, store, batch_size=5, seed=1))
    loaders = [
        SoftLabelLoader(photos, store, batch_size=5, seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {len(loader) for loader in loaders} == {3}
    shares = [list(loader) for loader in loaders]
    for number, whole in enumerate(wanted):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.cat([part.ids for part in parts]).tolist() == whole.ids.tolist()
        assert torch.cat([part.targets for part in parts]).tolist() == whole.targets.tolist()
        labels = [part.labels.dense() for part in parts if part.labels is not None]
        assert whole.labels is not None and torch.equal(torch.cat(labels), whole.labels.dense())
        assert loaders[0].samples_in(number) == len(whole)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_state_is_taken_up_by_another_number_of_ranks(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    options: dict[str, Any] = {"batch_size": 5, "seed": 1}
    two = [SoftLabelLoader(photos, store, **options, rank=rank, world_size=2) for rank in range(2)]
    for loader in two:
        next(iter(loader))
    assert two[0].state_dict() == two[1].state_dict()
    wanted = [batch.ids.tolist() for batch in SoftLabelLoader(photos, store, **options)]
    for world_size in (1, 3):
        parts = []
        for rank in range(world_size):
            loader = SoftLabelLoader(photos, store, **options, rank=rank, world_size=world_size)
            loader.load_state_dict(two[0].state_dict())
            parts.append([batch.ids.tolist() for batch in loader])
        assert [list(chain(*slices)) for slices in zip(*parts, strict=True)] == wanted[1:]


def test_states_of_other_loaders_are_refused(photos: Path, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    state = SoftLabelLoader(photos, store, batch_size=5).state_dict()
    others: dict[str, SoftLabelLoader] = {
        "seed": SoftLabelLoader(photos, store, batch_size=5, seed=1),
        "batch_size": SoftLabelLoader(photos, store, batch_size=6),
        "shuffle": SoftLabelLoader(photos, store, batch_size=5, shuffle=False),
        "drop_last": SoftLabelLoader(photos, store, batch_size=5, drop_last=True),
        "samples": SoftLabelLoader(photos, store, batch_size=5, indices=range(11)),
        "labels": SoftLabelLoader(photos, make_store("other", teachers=[make_teacher(seed=1)]), batch_size=5),
        "views": SoftLabelLoader(photos, make_store("fewer", views=2), batch_size=5),
        "policy": SoftLabelLoader(photos, None, batch_size=5, policy=ViewPolicy.center(16)),
        "dataset": SoftLabelLoader(
            write_photos(make_photo_folder(tmp_path / "o", per_class=5), tmp_path / "o.beton"),
            None,
            batch_size=5,
            policy=ViewPolicy.center(16),
        ),
    }
    for name, loader in others.items():
        before = loader.state_dict()
        with pytest.raises(InputError, match=f"another loader: its {name} is"):
            loader.load_state_dict(state)
        assert loader.state_dict() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2, this fastlabel reads version 1"),
        ({"epoch": -1}, "after batch 0 of epoch -1"),
        ({"epoch": 1.5}, "of epoch 1.5"),
        ({"batches": 4}, "after batch 4 of epoch 0.*3 batches in each"),
        ({"batches": True}, "after batch True"),
        ({"seed": "0"}, "its seed is 0"),
        ({"surprise": 1}, "has the values .*surprise"),
    ],
)
def test_states_that_are_none_are_refused(
    photos: Path, make_store: MakeStore, change: dict[str, Any], message: str
) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5)
    with pytest.raises(InputError, match=message):
        loader.load_state_dict(loader.state_dict() | change)
    for value in ({}, None, [1]):
        with pytest.raises(InputError, match="not the state of a SoftLabelLoader"):
            loader.load_state_dict(value)  # type: ignore[arg-type]
    short = loader.state_dict()
    del short["samples"]
    with pytest.raises(InputError, match=r"expected version, epoch, batches, .*samples"):
        loader.load_state_dict(short)


def test_ranks_that_cannot_be(photos: Path, make_store: MakeStore) -> None:
    with pytest.raises(InputError, match="rank 2 must be 0 to 1"):
        SoftLabelLoader(photos, make_store(), batch_size=5, rank=2, world_size=2)
    with pytest.raises(InputError, match="a batch_size of 2 leaves some of the 3 ranks without a sample"):
        SoftLabelLoader(photos, make_store(), batch_size=2, rank=0, world_size=3)
