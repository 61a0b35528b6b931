"""Folders, digits and torchvision datasets as sources of images."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from fastlabel.dataset.digits import load_digits, split_rows
from fastlabel.dataset.image_files import UnreadableImageError, read_image, shrink
from fastlabel.dataset.sources import open_source
from fastlabel.errors import DatasetError, InputError

GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = np.stack([GRAY, GRAY.T, 255 - GRAY], axis=2)


def test_class_ids_follow_sorted_names_and_files_are_found_at_any_depth(tmp_path):
    for name in ("b/2.png", "b/deep/er/1.png", "a/1.png", ".hidden/x.png", "b/.DS_Store", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name, format="png")
    (tmp_path / "README.txt").write_text("beside the class folders: not a sample")
    source = open_source(tmp_path)
    assert source.classes == ["a", "b"]
    names = [source.name(row).removeprefix(f"{tmp_path}/") for row in range(len(source))]
    assert names == ["a/1.png", "b/2.png", "b/deep/er/1.png"]
    assert [source.sample(row)[1] for row in range(3)] == [0, 1, 1]


def test_links_are_followed_once_and_a_dangling_one_is_unreadable(tmp_path):
    folder = tmp_path / "source" / "a"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir(parents=True)
    Image.fromarray(RGB).save(tmp_path / "elsewhere" / "1.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(tmp_path / "missing.png")
    source = open_source(folder.parent)
    assert [source.name(row).removeprefix(f"{folder}/") for row in range(len(source))] == [
        "linked/1.png",
        "nowhere.png",
    ]
    with pytest.raises(UnreadableImageError, match="does not exist"):
        source.sample(1)


def test_an_empty_class_folder_is_named(photo_folder):
    (photo_folder / "emu" / "nothing").mkdir(parents=True)
    with pytest.raises(DatasetError, match="emu is empty"):
        open_source(photo_folder)


@pytest.mark.parametrize("what", ["missing", "file", "no classes"])
def test_what_is_not_a_folder_of_class_folders(tmp_path, what):
    path = tmp_path / "source"
    if what == "file":
        path.write_text("")
    elif what == "no classes":
        path.mkdir()
        Image.fromarray(RGB).save(path / "1.png")
    with pytest.raises(DatasetError, match="class folders"):
        open_source(path)


def test_digits_are_split_by_class_without_overlap():
    (train, train_targets), (test, test_targets) = load_digits("train"), load_digits("test")
    assert len(train) + len(test) == 1797
    assert train.shape[1:] == (16, 16, 3) and train.dtype == np.uint8 and train.max() == 255
    assert (train[:, ::2, ::2] == train[:, 1::2, 1::2]).all()
    share = np.bincount(test_targets) / (np.bincount(train_targets) + np.bincount(test_targets))
    assert (np.abs(share - 0.2) < 0.01).all()
    targets = np.repeat(np.arange(10), 20)
    rows = [split_rows(targets, split) for split in ("train", "test")]
    assert sorted(np.concatenate(rows)) == list(range(200))
    assert rows[1][:8].tolist() == split_rows(targets, "test")[:8].tolist()


def test_the_split_of_the_digits_never_changes():
    """Golden: whoever has a digits .beton from an earlier version has the same samples."""
    rows = split_rows(np.zeros(40, np.int64), "test")
    assert rows.tolist() == [10, 14, 15, 20, 25, 31, 32, 36]


@pytest.mark.parametrize("source", ["digits:", "digits:all", "torchvision:CIFAR10", "torchvision:CIFAR10:x"])
def test_malformed_names_are_refused(source):
    with pytest.raises(InputError, match="expected"):
        open_source(source)


def test_torchvision_datasets_without_data_or_split(tmp_path):
    with pytest.raises(DatasetError, match="cannot open CIFAR10"):
        open_source(f"torchvision:CIFAR10:{tmp_path}:train")
    with pytest.raises(InputError, match="did you mean CIFAR10"):
        open_source(f"torchvision:CIFAR11:{tmp_path}:train")
    with pytest.raises(InputError, match="no split val"):
        open_source(f"torchvision:CIFAR10:{tmp_path}:val")
    with pytest.raises(InputError, match="neither"):
        open_source(f"torchvision:FakeData:{tmp_path}:train")


def test_a_torchvision_dataset_is_read(tmp_path, monkeypatch):
    """Five images in the layout of CIFAR-10, its checksums aside."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(5, -1), "labels": [0, 1, 1, 0, 2]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog", "emu"]}))
    source = open_source(f"torchvision:CIFAR10:{tmp_path}:train")
    assert source.classes == ["cat", "dog", "emu"]
    images, targets = zip(*(source.sample(row) for row in range(len(source))), strict=True)
    assert (np.stack(images) == pixels.transpose(0, 2, 3, 1)).all()
    assert list(targets) == [0, 1, 1, 0, 2]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm", "gif"])
def test_lossless_types_give_their_pixels(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(GRAY if suffix == "gif" else RGB)
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    expected = np.repeat(GRAY[..., None], 3, axis=2) if suffix == "gif" else RGB
    assert (read_image(path) == expected).all()


def test_other_modes_become_rgb(tmp_path):
    path = tmp_path / "a.png"
    wide = GRAY.astype(np.uint16) * 257
    Image.fromarray(wide).save(path)
    assert (read_image(path) == GRAY[..., None]).all()
    Image.fromarray(np.dstack([RGB, 255 - GRAY])).save(path)
    assert (read_image(path) == RGB).all()
    palette = Image.fromarray(GRAY).convert("P")
    palette.save(path, transparency=bytes(range(256)))
    assert (read_image(path) == GRAY[..., None]).all()
    Image.fromarray(GRAY > 100).save(path)
    assert (read_image(path) == ((GRAY > 100) * 255)[..., None]).all()


def test_floats_and_sides_over_16_bits_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(GRAY.astype(np.float32)).save(path)
    with pytest.raises(UnreadableImageError, match="floating-point"):
        read_image(path)
    Image.fromarray(np.zeros((1, 65536), np.uint8)).save(path)
    with pytest.raises(UnreadableImageError, match="at most 65535"):
        read_image(path)


def test_shrink_never_enlarges_and_never_loses_a_side():
    assert shrink(RGB, None) is RGB and shrink(RGB, 8) is RGB
    assert shrink(np.zeros((2, 999, 3), np.uint8), 100).shape == (1, 100, 3)
