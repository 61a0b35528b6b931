"""Folders, digits and torchvision datasets as sources of images."""

from __future__ import annotations

import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fastlabel.dataset import turbojpeg
from fastlabel.dataset.digits import load_digits, split_rows
from fastlabel.dataset.image_files import UnreadableImageError, read_image, shrink
from fastlabel.dataset.sources import open_source
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import DatasetError, InputError
from tests.conftest import photo_like

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


@pytest.mark.fault("11.6 pixels lost in reading")
@pytest.mark.parametrize("largest", [1, 255, 1023, 4095])
def test_fewer_bits_in_16_are_refused_instead_of_nearly_black(tmp_path, largest):
    pixels = (GRAY.astype(np.int64) * largest // GRAY.max()).astype(np.uint16)
    for suffix in ("png", "tiff", "jp2"):
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
        with pytest.raises(UnreadableImageError, match=f"go up to {largest:,} of 65,535 only: convert it to 8 bits"):
            read_image(tmp_path / f"a.{suffix}")
    Image.fromarray(pixels * 0).save(tmp_path / "black.png")
    assert not read_image(tmp_path / "black.png").any()


@pytest.mark.fault("11.6 pixels lost in reading")
def test_32_bit_integers_are_refused_instead_of_black(tmp_path):
    path = tmp_path / "a.tiff"
    for scale in (1, 257, 10**6):
        Image.fromarray(GRAY.astype(np.int32) * scale).save(path)
        with pytest.raises(UnreadableImageError, match="32-bit integer pixels have no defined range"):
            read_image(path)
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + (GRAY.astype(np.uint16) * 16).astype(">u2").tobytes())
    assert np.abs(read_image(tmp_path / "a.pgm")[..., 0].astype(int) - GRAY).max() <= 1  # PGM says what its range is


def photo(height=64, width=80):
    return photo_like(height, width, 1, 7)


def jpeg_bytes(**options):
    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "JPEG", **{"quality": 90} | options)
    return out.getvalue()


@pytest.mark.fault("11.6 half a JPEG")
@pytest.mark.parametrize("kind", ["baseline", "progressive", "gray", "CMYK"])
def test_half_a_jpeg_is_unreadable_even_with_an_end_marker(tmp_path, kind):
    path, image = tmp_path / "a.jpg", Image.fromarray(photo())
    image = image.convert({"gray": "L", "CMYK": "CMYK"}.get(kind, "RGB"))
    image.save(path, quality=90, progressive=kind == "progressive")
    whole = path.read_bytes()
    assert (read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()
    start = whole.index(b"\xff\xda")
    for cut in ((start + len(whole)) // 2, len(whole) - 40):
        for end in (b"\xff\xd9", b""):
            path.write_bytes(whole[:cut] + end)
            with pytest.raises(UnreadableImageError, match="libjpeg says: "):
                read_image(path)
    path.write_bytes(whole[:-2] + b"\0\0\0\0" + whole[-2:] + b"trailing bytes")  # nothing of it is a pixel
    assert (read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_pixels_of_a_jpeg_are_those_of_pillow(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(subsampling=subsampling, restart_marker_rows=1))
    assert (read_image(path) == np.asarray(Image.open(path))).all()


def test_subsampling_that_turbojpeg_does_not_know_is_left_to_pillow(tmp_path):
    path = tmp_path / "a.jpg"
    data = bytearray(jpeg_bytes(subsampling="4:4:4"))
    frame = data.index(b"\xff\xc0")
    # 3x1 blocks of luminance for each of the others: legal, and of no name. The pixels are nonsense, but there.
    data[frame + 11] = 0x31
    path.write_bytes(data)
    assert "determine subsampling" in turbojpeg.explain(bytes(data), 64, 80)
    assert read_image(path).shape == (64, 80, 3)


@pytest.mark.fault("11.9 FIFOs and devices")
@pytest.mark.timeout(30)
def test_a_fifo_and_a_device_among_the_images_are_named(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    os.mkfifo(folder / "1.png")
    (folder / "2.jpg").symlink_to("/dev/zero")
    source = open_source(tmp_path)
    for row in range(2):
        with pytest.raises(UnreadableImageError, match="is not a regular file"):
            source.sample(row)


@pytest.mark.fault("11.13 class folder in Latin-1")
def test_a_class_folder_that_is_no_utf8_is_named_before_anything_is_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/1.png", "wb") as file:
        Image.fromarray(RGB).save(file, "png")
    with pytest.raises(DatasetError, match=r"class folder b'caf\\xe9' in .* is not UTF-8: rename it"):
        open_source(tmp_path)


@pytest.mark.fault("11.13 file name in Latin-1")
def test_an_image_whose_name_is_no_utf8_is_an_image(tmp_path):
    (tmp_path / "a").mkdir()
    for name, content in ((b"caf\xe9.png", None), (b"th\xe9.png", b"broken")):
        with open(os.fsencode(tmp_path / "a") + b"/" + name, "wb") as file:
            Image.fromarray(RGB).save(file, "png") if content is None else file.write(content)
    report = write_dataset(tmp_path, tmp_path / "a.beton", skip_broken=True, progress=False)
    assert report.num_samples == 1 and report.left_out[0].startswith(f"{tmp_path}/a/th\\udce9.png: ")
    json.dumps(report.to_dict()).encode()
    "".join(report.left_out).encode()


@pytest.mark.fault("11.13 thumbnails")
def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    images = ("a/1.png", "a/2.JPEG", "a/3", "b/1.png")
    others = ("a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "a/notes.txt", "a/1.xml", "@eaDir/x/1.png", "b/Thumbs.db")
    for name in (*images, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name, format="jpeg" if name.endswith("JPEG") else "png")
    source = open_source(tmp_path)
    assert source.classes == ["a", "b"]
    assert [source.name(row).removeprefix(f"{tmp_path}/") for row in range(len(source))] == list(images)
    left = sorted(name.removeprefix(f"{tmp_path}/") for name in source.not_images)
    assert left == ["@eaDir", "a/1.xml", "a/@eaDir", "a/notes.txt", "b/Thumbs.db"]
    report = write_dataset(tmp_path, tmp_path / "a.beton", progress=False)
    assert report.num_samples == 4 and len(report.not_images) == 5
