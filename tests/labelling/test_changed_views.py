"""Mixed crops and pixel operations through the whole path: one label for one crop, whoever makes it, whenever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError
from fastlabel.images.device_loader import DeviceImageLoader
from fastlabel.images.loader import ImageLoader
from fastlabel.inspection.contact_sheet import contact_sheet
from fastlabel.integrity.repair import repair_store
from fastlabel.integrity.verify import verify_store
from fastlabel.kernels.mix_crops import mix_crops_reference
from fastlabel.kernels.pixel_operations import pixel_operations_reference
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store import manifest as manifest_module
from fastlabel.store.store import LabelStore
from fastlabel.train.recipes import Recipe
from fastlabel.train.student import StudentConfig, train_student
from fastlabel.views import Mixing, PixelOperations, ViewPolicy, ViewSpec
from tests.stores import digests, make_teacher

MakeStore = Callable[..., Path]
MIXING = Mixing.of(cutmix=0.5, mixup=0.5, block=4)
PIXELS = PixelOperations.of(0.3, 0.3, 0.3, brightness=0.3, contrast=0.3, saturation=0.3, patches=2, erase=0.5)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 2 views x 5 samples: a block of four lies in two of them."""
    monkeypatch.setattr(manifest_module, "UNIT_SAMPLES", 5)
    monkeypatch.setattr(manifest_module, "MAX_UNIT_VIEWS", 2)
    monkeypatch.setattr(manifest_module, "DECODE_VIEWS", 2)


def mixed_by_hand(beton: Path, store: LabelStore, view: int, ids: np.ndarray) -> torch.Tensor:
    """Changed and mixed crops [B, S, S, 3] from plain ones of all samples, by the references."""
    plain_policy = replace(store.views, mixing=None, pixels=None)
    num_samples = Beton.open(beton).num_samples
    everyone = np.arange(num_samples)
    plain = ImageLoader(beton, plain_policy, num_samples).decode(everyone, [view]).images
    pixels = store.views.pixels
    if pixels is not None:
        rows = torch.from_numpy(pixels.table(store.views.seed, view, everyone, store.views.size))
        rest = torch.from_numpy(pixels.kernels()), torch.tensor(pixels.fill, dtype=torch.uint8)
        plain = pixel_operations_reference(plain[:, 0], rows, *rest)[:, None]
    if store.partners is None:
        return plain[torch.from_numpy(ids), 0]
    table = np.zeros((num_samples, 1, 6), np.int32)
    table[:, 0, 0] = everyone
    table[store.ids, 0] = store.partners.table(view, store.ids)
    return mix_crops_reference(plain, torch.from_numpy(table))[torch.from_numpy(ids), 0]


@pytest.mark.parametrize(
    "spec", [ViewSpec(mixing=MIXING), ViewSpec(pixels=PIXELS), ViewSpec(pixels=PIXELS, mixing=MIXING)]
)
def test_labels_and_pixels_are_those_of_the_changed_crop(photos: Path, make_store: MakeStore, spec: ViewSpec) -> None:
    """K = C: the stored label is the teacher's own of the changed crop, and the student sees that crop."""
    teacher = make_teacher()
    store = LabelStore.open(make_store(k=3, teachers=[teacher], policy=spec))
    ids = store.segments[0]
    for view in range(3):
        crops = mixed_by_hand(photos, store, view, ids)
        with torch.inference_mode():
            logits = torch.cat([teacher.model(part) for part in crops.permute(0, 3, 1, 2).split(4)])
        found, wanted = store.plane(view)[ids], store.manifest.teachers[0].codec.encode(logits)
        assert torch.equal(found.classes, wanted.classes) and torch.equal(found.codes, wanted.codes)
    changed = 0
    for batch_size, views_per_image, shuffle in ((4, 1, True), (5, 1, True), (12, 3, True), (4, 1, False)):
        options = {"views_per_image": views_per_image, "shuffle": shuffle}
        loader = SoftLabelLoader(photos, store, batch_size, **options)
        for batch in loader:
            for at in range(len(batch)):
                view, sample = loader.views(0)[at % views_per_image], batch.ids[at : at + 1].numpy()
                crop = mixed_by_hand(photos, store, view, sample)[0]
                assert torch.equal(batch.images[at].permute(1, 2, 0), crop)
                label = store.plane(view)[sample]
                assert torch.equal(batch.labels[at : at + 1].codes, label.codes)
                changed += 1
    assert changed == 12 * 4 + 2 * 12


@pytest.mark.usefixtures("small_units")
def test_bytes_depend_on_no_batch_and_on_no_worker(make_store: MakeStore) -> None:
    policy = ViewSpec(mixing=MIXING, pixels=PIXELS)
    one = digests(make_store("one", num_workers=1, decode_batch=1, policy=policy))
    assert one == digests(make_store("two", num_workers=2, decode_batch=7, policy=policy))
    assert one == digests(make_store("default", policy=policy))


@pytest.mark.usefixtures("small_units")
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write, calls = digests(make_store("whole", mixing=MIXING)), LabelStore.write, iter(range(2))

    def killed(self: LabelStore, *args: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        write(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LabelStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            make_store("continued", mixing=MIXING)
    assert digests(make_store("continued", mixing=MIXING)) == whole


@pytest.mark.usefixtures("small_units")
def test_a_grown_store_keeps_its_labels(photos: Path, make_store: MakeStore) -> None:
    """More views, a second teacher, and samples that are mixed among themselves; sound, and repaired to the same."""
    teachers = [make_teacher(), make_teacher(seed=1, name="second")]
    few = [0, 3, 5, 6, 7, 10, 11]
    options: dict[str, Any] = {"policy": ViewSpec(mixing=MIXING, pixels=PIXELS)}
    path = make_store(views=2, subset=few, **options)
    before = {view: LabelStore.open(path).plane(view)[few].codes for view in range(2)}
    make_store(views=3, teachers=teachers, **options)
    store = LabelStore.open(path)
    assert [len(ids) for ids in store.segments] == [7, 5]
    for view, codes in before.items():
        assert torch.equal(store.plane(view)[few].codes, codes)
    report = verify_store(path, photos, teachers, samples=100)
    assert not report.findings and report.labels_recomputed == 72
    whole = digests(path)
    (path / "samples/1/c/0").unlink()
    (path / "0/codes/c/0/1/0").unlink()
    assert repair_store(path, photos, teachers).left == ()
    assert digests(path) == whole


def test_only_labelled_samples_are_mixed(photos: Path, make_store: MakeStore) -> None:
    store = LabelStore.open(make_store(ipc=2, mixing=MIXING))
    assert store.partners is not None
    for view in range(3):
        assert set(store.partners.of_view(view)[store.ids]) <= set(store.ids)
    ids = np.concatenate([batch.ids for batch in SoftLabelLoader(photos, store, 4, indices=store.ids[:3])])
    assert sorted(ids) == sorted(store.ids[:3])


def test_pairs_come_in_one_batch(photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no image is decoded twice, for any even size; on two ranks as well."""
    store = LabelStore.open(make_store(mixing=MIXING))
    for batch_size, ranks in ((4, 1), (6, 1), (4, 2), (8, 2)):
        for rank in range(ranks):
            loader = SoftLabelLoader(photos, store, batch_size, rank=rank, world_size=ranks)
            for epoch in range(3):
                loader.set_epoch(epoch)
                assert store.partners is not None
                met = store.partners.of_view(loader.view(epoch))
                for batch in loader:
                    assert set(met[batch.ids.numpy()]) == set(batch.ids.tolist())
    sizes, room = [], ImageLoader._room
    monkeypatch.setattr(
        ImageLoader, "_room", lambda self, count, views: sizes.append(count) or room(self, count, views)
    )
    list(SoftLabelLoader(photos, store, 12, views_per_image=3))  # whole blocks
    assert sizes == [4, 4, 4]


def test_a_device_mixes_the_same_bytes(photos: Path, make_store: MakeStore) -> None:
    store = LabelStore.open(make_store(policy=ViewSpec(mixing=MIXING, pixels=PIXELS)))
    loaders = [ImageLoader(photos, store.views, 5), DeviceImageLoader(photos, store.views, 5, device="cpu")]
    ids = np.array([3, 1, 3, 7, 11])  # one of them twice
    for loader in loaders:
        loader.partners = store.partners
    one, other = (loader.decode(ids, [0, 2]).images for loader in loaders)
    assert torch.equal(one, other) and torch.equal(one[0], one[2])


def test_a_contact_sheet_shows_the_mix(photos: Path, make_store: MakeStore) -> None:
    store = LabelStore.open(make_store(mixing=MIXING))
    for row in contact_sheet(photos, store, samples=3, columns=2):
        for cell in row:
            wanted = mixed_by_hand(photos, store, cell.view, np.array([cell.sample]))[0]
            np.testing.assert_array_equal(cell.crop, wanted)


def test_other_mixing_is_another_store(photos: Path, make_store: MakeStore) -> None:
    make_store(mixing=MIXING)
    for other in (None, Mixing.of(cutmix=0.5, mixup=0.5, block=8)):
        with pytest.raises(ManifestMismatchError, match="mixing"):
            make_store(mixing=other)
    policy = ViewPolicy.random_resized_crop(16)
    with pytest.raises(InputError, match="contradicts the view policy"):
        cache_labels(photos, photos.with_name("x.zarr"), [make_teacher()], 2, 2, policy=policy, mixing=MIXING)
    with pytest.raises(InputError, match="set the loader's partners"):
        ImageLoader(photos, LabelStore.open(make_store(mixing=MIXING)).views, 4).decode([0], [0])


def test_students(photos: Path, make_store: MakeStore, tmp_path: Path) -> None:
    """They train on mixed crops, by stored labels, hard ones, and both."""
    store = make_store(k=3, mixing=MIXING)
    for number, options in enumerate(({}, {"labels": "hard"}, {"hard_weight": 0.1})):
        files: dict[str, Any] = {"data": photos, "val": photos, "store": store, "out": tmp_path / str(number)}
        config = StudentConfig(**files, **options, arch="convnet-d1-w8", recipe=Recipe(epochs=1, batch_size=6))
        assert len(train_student(config).history) == 1


def test_an_odd_sample_comes_last(photos: Path, make_store: MakeStore) -> None:
    """So that it splits no pair: one whose partner is shown too."""
    store = LabelStore.open(make_store(subset=range(11), mixing=MIXING))
    loader = SoftLabelLoader(photos, store, 2)
    assert store.partners is not None
    for epoch in range(3):
        met = store.partners.of_view(loader.view(epoch))
        *pairs, alone = [batch.ids.tolist() for batch in loader]
        assert all(met[one] == other for one, other in pairs) and met[alone[0]] == alone[0]
