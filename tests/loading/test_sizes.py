"""Crops of another size than the teacher's, from the same boxes; and sizes that grow with the epochs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from fastlabel.errors import InputError
from fastlabel.images.device_loader import DeviceImageLoader
from fastlabel.images.loader import ImageLoader
from fastlabel.kernels.mix_crops import mix_crops_reference
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.loading.sizes import SizeSchedule
from fastlabel.store.store import LabelStore
from fastlabel.views import Mixing, PixelOperations, ViewPolicy, ViewSpec

MakeStore = Callable[..., Path]


def test_schedules() -> None:
    schedule = SizeSchedule.of("16:2,24:3,32")
    assert [schedule.at(epoch) for epoch in range(7)] == [16, 16, 24, 24, 24, 32, 32]
    assert str(schedule) == "16:2,24:3,32"
    assert SizeSchedule.of(str(SizeSchedule.of(20))) == SizeSchedule.of(20)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "16:2",
        "16,24",
        "16:0,24",
        "a",
        "16:2,",
        "0",
        0,
        2.5,
        "16:2:3,24",
        "70000",
        "1" * 5000,
        "16:" + "1" * 5000 + ",24",
        "\uff11\uff16",
    ],
)
def test_what_is_no_schedule(given: Any) -> None:
    with pytest.raises(InputError):
        SizeSchedule.of(given)


def test_crops_are_those_of_the_same_boxes(photos: Path, make_store: MakeStore) -> None:
    store = LabelStore.open(make_store())
    loader = SoftLabelLoader(photos, store, 5, size="24:1,20")
    for epoch, size in enumerate((24, 20, 20)):
        wanted = ImageLoader(photos, replace(store.views, size=size), 12).decode(np.arange(12), [loader.view(epoch)])
        for batch in loader:
            assert batch.images.shape[1:] == (3, size, size)
            assert torch.equal(batch.images.permute(0, 2, 3, 1), wanted.images[batch.ids, 0])
            assert batch.labels is not None
            assert torch.equal(batch.labels.codes, store.plane(loader.view(epoch))[batch.ids].codes)


def test_mixed_and_erased_boxes_are_scaled(photos: Path, make_store: MakeStore) -> None:
    """By hand, at twice the size; a device has the same bytes."""
    erase = PixelOperations.of(erase=1.0, fill=(9, 9, 9))
    store = LabelStore.open(make_store(policy=ViewSpec(mixing=Mixing.of(cutmix=1.0, block=4), pixels=erase)))
    ids, (size, own) = store.segments[0], (32, 16)
    assert store.partners is not None
    plain = ImageLoader(photos, replace(store.views, mixing=None, pixels=None, size=size), 12).decode(ids, [1]).images
    for crop, box in zip(plain[:, 0], 2 * erase.table(0, 1, ids, own)[:, 5:9], strict=True):
        crop[box[0] : box[2], box[1] : box[3]] = 9
    table = store.partners.table(1, ids)
    table[:, 0] = np.argsort(ids)[np.searchsorted(ids, table[:, 0], sorter=np.argsort(ids))]
    table[:, 2:] *= 2
    wanted = mix_crops_reference(plain, torch.from_numpy(table)[:, None])
    for loader in (
        ImageLoader(photos, store.views, 12, size=size),
        DeviceImageLoader(photos, store.views, 12, device="cpu", size=size),
    ):
        loader.partners = store.partners
        assert torch.equal(loader.decode(ids, [1]).images, wanted)


def test_a_state_goes_on_at_its_size(photos: Path, make_store: MakeStore) -> None:
    path = make_store()
    whole = SoftLabelLoader(photos, path, 4, size="24:1,16")
    batches = [batch for _ in range(2) for batch in whole]
    stopped = SoftLabelLoader(photos, path, 4, size="24:1,16")
    list(stopped)
    next(iter(stopped))
    again = SoftLabelLoader(photos, path, 4, size="24:1,16")
    again.load_state_dict(stopped.state_dict())
    for batch, wanted in zip(again, batches[4:], strict=True):
        assert torch.equal(batch.images, wanted.images)
    assert len(batches) == 6 and [batch.images.shape[-1] for batch in batches] == [24] * 3 + [16] * 3
    with pytest.raises(InputError, match="size"):
        SoftLabelLoader(photos, path, 4).load_state_dict(stopped.state_dict())
    assert next(iter(pickle.loads(pickle.dumps(whole)))).images.shape[-1] == 16


def test_refusals(photos: Path, make_store: MakeStore) -> None:
    with pytest.raises(InputError, match="copied, not resized: they are 16 pixels, not 24"):
        SoftLabelLoader(photos, None, 4, policy=ViewPolicy.pad_crop(16), size=24)
    patches = replace(ViewPolicy.center(16), pixels=PixelOperations.of(patches=2))
    with pytest.raises(InputError, match="a crop of 25 pixels has no 2 equal patches"):
        SoftLabelLoader(photos, None, 4, policy=patches, size="25:1,16")


def test_students(cli: Callable[..., Result], photos: Path, make_store: MakeStore, tmp_path: Path) -> None:
    command = ["train-student", photos, make_store(), "--val", photos, "--epochs", 2, "--batch-size", 6]
    grown = cli(*command, "--arch", "resnet18", "--student-size", "32:1,40", "--out", tmp_path / "grown")
    assert grown.exit_code == 0, grown.stderr
    fixed = cli(*command, "--arch", "convnet-d1-w8", "--student-size", 24, "--out", tmp_path / "fixed")
    assert fixed.exit_code == 0, fixed.stderr
    for extra, message in (
        (["--student-size", "24:1,32"], "convnet-d1-w8 of 32 pixels takes no images of 24: take a network that pools"),
        (["--student-size", "24:1"], "expected a size, or sizes with their numbers of epochs"),
        (
            ["--student-size", 24, "--labels", "online", "--teacher", "x.pt"],
            "teacher sees the student's crops",
        ),
    ):
        failed = cli(*command, "--arch", "convnet-d1-w8", *extra, "--out", tmp_path / "failed")
        assert failed.exit_code == 2 and message in failed.stderr and not (tmp_path / "failed").exists()
