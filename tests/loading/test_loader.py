"""SoftLabelLoader: the labels of exactly the crops that it shows."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fastlabel
from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError
from fastlabel.images.loader import ImageLoader
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store.store import LabelStore
from fastlabel.views import ViewPolicy
from tests.conftest import make_photo_folder
from tests.stores import make_teacher, write_photos

MakeStore = Callable[..., Path]


def test_labels_belong_to_the_crops(photos: Path, make_store: MakeStore) -> None:
    """Running the teacher on the images of a batch gives the labels of that batch, up to the codec's step."""
    teacher = make_teacher()
    loader = SoftLabelLoader(photos, make_store(k=3, teachers=[teacher]), batch_size=5)
    targets = Beton.open(photos).targets
    for _ in range(4):
        for batch in loader:
            assert batch.labels is not None
            with torch.inference_mode():
                exact = torch.log_softmax(teacher.model(batch.images), 1)
            assert (batch.labels.dense().log() - exact).abs().max() < 1 / 8
            assert batch.targets.tolist() == targets[batch.ids.numpy()].tolist()


def test_an_epoch_visits_each_sample_once_in_an_order_of_its_own(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    loader = SoftLabelLoader(photos, store, batch_size=5, seed=3)
    orders = [torch.cat([batch.ids for batch in loader]).tolist() for _ in range(3)]
    assert [sorted(order) for order in orders] == [list(range(12))] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert len(loader) == 3
    again = SoftLabelLoader(photos, store, batch_size=5, seed=3, num_workers=1)
    again.set_epoch(1)
    assert torch.cat([batch.ids for batch in again]).tolist() == orders[1]


def test_views_are_a_permutation_that_repeats(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(views=3), batch_size=12, shuffle=False)
    views = [loader.view(epoch) for epoch in range(6)]
    assert sorted(views[:3]) == [0, 1, 2] and views[3:] == views[:3]
    crops = [next(iter(loader)).images.clone() for _ in range(4)]
    assert torch.equal(crops[0], crops[3]) and not torch.equal(crops[0], crops[1])
    (wanted,) = ImageLoader(photos, loader.policy or ViewPolicy.identity(1), 12).epoch(np.arange(12), [views[1]])
    assert torch.equal(crops[1], wanted.images[:, 0].permute(0, 3, 1, 2))


def test_batches_stay_valid_and_threads_end(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=1)
    held = [(batch, batch.images.clone()) for batch in loader]
    assert all(torch.equal(batch.images, copy) for batch, copy in held)
    for _ in range(5):
        for batch in loader:
            assert batch.labels is not None
            break
    del batch
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name == "fastlabel-images" for name in names) == 0, names


def test_drop_last_and_indices(photos: Path, make_store: MakeStore) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=5, drop_last=True)
    assert [len(batch) for batch in loader] == [5, 5] and len(loader) == 2
    part = SoftLabelLoader(photos, make_store(), batch_size=5, indices=[9, 1], shuffle=False)
    assert [batch.ids.tolist() for batch in part] == [[9, 1]]


def test_without_a_store(photos: Path) -> None:
    loader = SoftLabelLoader(photos, None, batch_size=12, policy=ViewPolicy.center(32), shuffle=False)
    (batch,) = loader
    assert batch.labels is None and batch.images.shape == (12, 3, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_refusals(photos: Path, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(subset=[1, 2, 3])
    other = write_photos(make_photo_folder(tmp_path / "other", ("bird", "cat", "dog", "eel"), 3), tmp_path / "o.beton")
    with pytest.raises(ManifestMismatchError, match="labels of another dataset"):
        SoftLabelLoader(other, store, batch_size=4)
    with pytest.raises(
        MissingLabelsError, match="1 of the indices are not labelled in this store, for example sample 5"
    ):
        SoftLabelLoader(photos, store, batch_size=4, indices=[1, 5])
    with pytest.raises(InputError, match="either a store"):
        SoftLabelLoader(photos, None, batch_size=4)
    with pytest.raises(InputError, match="batch_size 0"):
        SoftLabelLoader(photos, store, batch_size=0)
    with pytest.raises(MissingLabelsError, match="no teacher 1"):
        SoftLabelLoader(photos, store, batch_size=4, teacher=1)
    with pytest.raises(MissingLabelsError, match="no view 3; it has 3"):
        LabelStore.open(store).plane(3)


def test_an_uncommitted_view_is_an_error_until_it_is_there(photos: Path, make_store: MakeStore) -> None:
    store = make_store()
    record = store / "0" / "units" / "0.0"
    shutil.move(record, store.parent / "record")
    loader = SoftLabelLoader(photos, store, batch_size=4)
    with pytest.raises(MissingLabelsError, match="run the same `fastlabel cache-labels` command again"):
        next(iter(loader))
    shutil.move(store.parent / "record", record)
    assert next(iter(loader)).labels is not None


def test_other_crops_than_the_labelled_ones_are_noticed(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = SoftLabelLoader(photos, make_store(), batch_size=4)
    original = ViewPolicy.boxes

    def shifted(self: ViewPolicy, *args: object) -> object:
        return original(self, *args) + np.array([1, 0, 0, 0, 0], np.int32)  # type: ignore[arg-type]

    monkeypatch.setattr(ViewPolicy, "boxes", shifted)
    with pytest.raises(ManifestMismatchError, match="are not those that were labelled"):
        next(iter(loader))


def test_the_public_names() -> None:
    assert fastlabel.SoftLabelLoader is SoftLabelLoader
    for name in fastlabel.__all__:
        assert getattr(fastlabel, name) is not None and name in dir(fastlabel)
