"""Several views of an image in one batch: the crops and labels of as many epochs with one view, from one decode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.images.loader import ImageLoader
from fastlabel.labels.topk import TopKLabels, concatenate
from fastlabel.loading.loader import Batch, SoftLabelLoader
from fastlabel.store import manifest
from fastlabel.store.plane import PlaneStack
from fastlabel.store.store import LabelStore
from fastlabel.views import ViewPolicy
from tests.stores import make_teacher

MakeStore = Callable[..., Path]
Crop = tuple[bytes, list[float] | None, int]


def crops(batch: Batch) -> list[tuple[int, Crop]]:
    """Each crop of a batch: its sample; its pixels, probabilities and hard label."""
    probs = batch.labels.dense().tolist() if batch.labels is not None else [None] * len(batch)
    pixels = [image.numpy().tobytes() for image in batch.images]
    return list(zip(batch.ids.tolist(), zip(pixels, probs, batch.targets.tolist(), strict=True), strict=True))


def by_epoch(loader: SoftLabelLoader, epochs: int) -> list[dict[int, list[Crop]]]:
    """The crops of every sample in each epoch, in the order in which they came."""
    found: list[dict[int, list[Crop]]] = []
    for _ in range(epochs):
        epoch: dict[int, list[Crop]] = {}
        for batch in loader:
            for sample, crop in crops(batch):
                epoch.setdefault(sample, []).append(crop)
        found.append(epoch)
    return found


@pytest.mark.parametrize("keep", [1, 1 << 28])  # bytes of planes that are kept: read singly, or a unit at once
@pytest.mark.parametrize(("M", "views"), [(2, 5), (3, 3), (4, 5), (1, 3)])
def test_an_epoch_is_as_many_epochs_of_one_view(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, M: int, views: int, keep: int
) -> None:
    """Crop by crop and label by label, over more epochs than the store has views."""
    monkeypatch.setattr("fastlabel.loading.prefetch.KEEP_PLANES_BYTES", keep)
    store = make_store(views=views)
    single = by_epoch(SoftLabelLoader(photos, store, batch_size=5, seed=3), 4 * M)
    several = by_epoch(SoftLabelLoader(photos, store, batch_size=5 * M, seed=3, views_per_image=M), 4)
    for epoch, found in enumerate(several):
        parts = single[epoch * M : (epoch + 1) * M]
        assert found == {sample: [part[sample][0] for part in parts] for sample in range(12)}
        assert all(len({pixels for pixels, _, _ in crops}) == M for crops in found.values())


def test_views_of_an_epoch_and_order_of_a_batch(photos: Path, make_store: MakeStore) -> None:
    store = make_store(views=5)
    loader = SoftLabelLoader(photos, store, batch_size=8, seed=3, views_per_image=2)
    order = [SoftLabelLoader(photos, store, batch_size=4, seed=3).view(number) for number in range(10)]
    assert sorted(order[:5]) == list(range(5))
    assert [loader.views(epoch) for epoch in range(5)] == [order[2 * epoch : 2 * epoch + 2] for epoch in range(5)]
    with pytest.raises(InputError, match=r"shows 2 views of each image: ask for views\(7\)"):
        loader.view(7)
    batch = next(iter(loader))
    assert batch.images.shape == (8, 3, 16, 16) and len(batch) == 8 == loader.samples_in(0) and len(loader) == 3
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    ids = batch.ids[::2]
    assert batch.ids.tolist() == ids.repeat_interleave(2).tolist() and len(set(ids.tolist())) == 4
    assert loader.policy is not None
    decoded = ImageLoader(photos, loader.policy, 4).decode(ids.numpy(), order[:2]).images
    assert torch.equal(batch.images.reshape(4, 2, 3, 16, 16), decoded.permute(0, 1, 4, 2, 3))
    # Rows of one source, gathered when they are read.
    assert batch.labels is not None and len(batch.labels.plane.codes) == 2 * 12
    opened = LabelStore.open(store)
    for m in range(2):
        wanted = opened.plane(order[m])[ids]
        assert torch.equal(batch.labels[slice(m, None, 2)].dense(), wanted.dense())


def test_labels_belong_to_the_crops(photos: Path, make_store: MakeStore) -> None:
    """Running the teacher on the images of a batch gives its labels; samples of a growing store have other rows."""
    teacher = make_teacher()
    store = make_store(k=3, teachers=[teacher], subset=[7, 2, 9, 4])
    make_store(k=3, teachers=[teacher], subset=[7, 2, 9, 4, 0, 11, 5])
    loader = SoftLabelLoader(photos, store, batch_size=6, views_per_image=3)
    seen = []
    for batch in loader:
        assert batch.labels is not None
        with torch.inference_mode():
            exact = torch.log_softmax(teacher.model(batch.images), 1)
        assert (batch.labels.dense().log() - exact).abs().max() < 1 / 8
        assert batch.targets.tolist() == loader.beton.targets[batch.ids.numpy()].tolist()
        seen += batch.ids.tolist()
    assert sorted(seen) == sorted(3 * [0, 2, 4, 5, 7, 9, 11])


def test_without_a_store_and_without_shuffling(photos: Path) -> None:
    policy = ViewPolicy.random_resized_crop(16, seed=1)
    options: dict[str, Any] = {"policy": policy, "shuffle": False}
    loader = SoftLabelLoader(photos, None, batch_size=10, **options, views_per_image=2)
    assert [loader.views(epoch) for epoch in (0, 3)] == [[0, 1], [6, 7]]
    single = by_epoch(SoftLabelLoader(photos, None, batch_size=5, **options), 4)
    for epoch, found in enumerate(by_epoch(loader, 2)):
        assert found == {n: [single[2 * epoch + m][n][0] for m in range(2)] for n in range(12)}
    loader.set_epoch(0)
    assert [batch.ids.tolist()[::2] for batch in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    short = SoftLabelLoader(photos, None, batch_size=10, **options, views_per_image=2, drop_last=True)
    assert [len(batch) for batch in short] == [10, 10] and len(short) == 2


@pytest.mark.parametrize("drop_last", [False, True])
def test_what_was_left_comes_next_for_every_place(photos: Path, make_store: MakeStore, drop_last: bool) -> None:
    options: dict[str, Any] = {"batch_size": 10, "seed": 3, "views_per_image": 2, "drop_last": drop_last}
    store = make_store(views=5)
    loader = SoftLabelLoader(photos, store, **options)
    states, wanted = [loader.state_dict()], []
    for _ in range(2):
        for batch in loader:
            wanted.append(crops(batch))
            states.append(loader.state_dict())
        states.append(loader.state_dict())
    for number, state in enumerate(states[:-1]):
        epoch, done = divmod(number, len(loader) + 1)
        other = SoftLabelLoader(photos, store, **options)
        other.load_state_dict(json.loads(json.dumps(state)))
        rest = [crops(batch) for batch in other]
        assert rest == wanted[epoch * len(loader) + done : (epoch + 1) * len(loader)]


def test_a_state_belongs_to_as_many_views(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    one, two = (SoftLabelLoader(photos, store, batch_size=4, views_per_image=M) for M in (1, 2))
    next(iter(one))
    state = one.state_dict()
    with pytest.raises(InputError, match="its views_per_image is 1, this loader has 2"):
        two.load_state_dict(state)
    with pytest.raises(InputError, match="its views_per_image is 2, this loader has 1"):
        one.load_state_dict(two.state_dict())
    # A state of before there were several is one of a single view.
    early = {name: value for name, value in state.items() if name != "views_per_image"}
    with pytest.raises(InputError, match="its views_per_image is 1, this loader has 2"):
        two.load_state_dict(early)
    one.load_state_dict(early)
    assert one.state_dict() == state


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_take_whole_images(photos: Path, make_store: MakeStore, world_size: int) -> None:
    """12 samples in batches of 5: of the last two, some of 3 or 5 ranks get none."""
    options: dict[str, Any] = {"batch_size": 10, "seed": 1, "views_per_image": 2}
    store = make_store()
    wanted = list(SoftLabelLoader(photos, store, **options))
    ranks = [SoftLabelLoader(photos, store, **options, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [list(loader) for loader in ranks]
    assert {len(share) for share in shares} == {3}
    for number, whole in enumerate(wanted):
        parts = [share[number] for share in shares]
        assert [crop for part in parts for crop in crops(part)] == crops(whole)
        assert all(part.ids[::2].tolist() == part.ids[1::2].tolist() for part in parts)
        assert all(part.labels is not None and len(part.labels) == len(part) for part in parts)
        assert ranks[0].samples_in(number) == len(whole)


def test_a_missing_plane_is_an_error_until_it_is_there(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six views in units of two, those of one unit."""
    monkeypatch.setattr(manifest, "MAX_UNIT_VIEWS", 2)
    monkeypatch.setattr(manifest, "DECODE_VIEWS", 2)
    store = make_store(views=6)
    record = store / "0" / "units" / "2.0"
    shutil.move(record, store.parent / "record")
    loader = SoftLabelLoader(photos, store, batch_size=6, views_per_image=2)
    lacking = [epoch for epoch in range(3) if {4, 5} & set(loader.views(epoch))]
    assert 1 <= len(lacking) <= 2
    for epoch in range(3):
        loader.set_epoch(epoch)
        if epoch in lacking:
            with pytest.raises(MissingLabelsError, match="run the same `fastlabel cache-labels` command again"):
                next(iter(loader))
        else:
            assert len(list(loader)) == 4
    shutil.move(store.parent / "record", record)
    for epoch in lacking:
        loader.set_epoch(epoch)
        assert len(list(loader)) == 4


def test_refusals(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    with pytest.raises(InputError, match="batch_size of 9 crops is not a multiple of views_per_image 2: take 10"):
        SoftLabelLoader(photos, store, batch_size=9, views_per_image=2)
    with pytest.raises(InputError, match="views_per_image 4 is more than the 3 views of"):
        SoftLabelLoader(photos, store, batch_size=8, views_per_image=4)
    with pytest.raises(InputError, match="views_per_image 0 must be at least 1"):
        SoftLabelLoader(photos, store, batch_size=8, views_per_image=0)
    with pytest.raises(InputError, match="4 with 2 crops of each sample leaves some of the 3 ranks without"):
        SoftLabelLoader(photos, store, batch_size=4, views_per_image=2, rank=0, world_size=3)


@pytest.mark.parametrize("classes", [np.uint16, np.uint32])
def test_labels_one_after_another(classes: type) -> None:
    """All values of every dtype, also those that are negative as signed integers."""
    random = np.random.default_rng(0)
    num_classes = 70_000 if classes is np.uint32 else 65_536
    parts = []
    for _ in range(3):
        ids = torch.from_numpy(random.integers(0, num_classes, (5, 4)).astype(classes))
        codes = torch.from_numpy(random.integers(0, 256, (5, 4)).astype(np.uint8))
        parts.append(
            TopKLabels(ids, codes, torch.from_numpy(random.integers(0, 65_536, (5, 2)).astype(np.uint16)), num_classes)
        )
    joined = concatenate(parts)
    for name in ("classes", "codes", "tail"):
        wanted = np.concatenate([getattr(part, name).numpy() for part in parts])
        np.testing.assert_array_equal(getattr(joined, name).numpy(), wanted)


def test_one_plane_is_not_copied(make_store: MakeStore) -> None:
    plane = LabelStore.open(make_store()).plane(1)
    assert PlaneStack.of([plane]).labels is plane.labels


def test_batches_stay_valid(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=2, views_per_image=2)
    held = [(batch, batch.images.clone()) for batch in islice(loader, 12)]
    assert all(torch.equal(batch.images, copy) for batch, copy in held)
