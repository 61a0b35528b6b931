"""write_dataset(): what is written is what ffcv reads, whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import threading

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel.dataset import sources, write
from fastlabel.dataset.digits import load_digits
from fastlabel.dataset.encode import Encoder
from fastlabel.dataset.tables import JPEG, RAW
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import DatasetError, InputError
from fastlabel.images.ffcv_api import Loader, OrderOption, Reader, SimpleRGBImageDecoder
from tests.process_state import restored


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "data.beton"


@pytest.fixture(autouse=True)
def _out_folder(tmp_path):
    (tmp_path / "out").mkdir()


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def stored(path):
    """(mode, height, width, payload, label) of every sample, by ffcv's own reader and allocation table."""
    reader = Reader(str(path))
    data = path.read_bytes()
    sizes = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist(), strict=True))
    for field, label in zip(reader.metadata["f0"], reader.metadata["f1"], strict=True):
        pointer = int(field["data_ptr"])
        payload = data[pointer : pointer + sizes[pointer]]
        yield int(field["mode"]), int(field["height"]), int(field["width"]), payload, int(label)


def paths_and_labels(folder):
    classes = sorted(path.name for path in folder.iterdir())
    return [(path, classes.index(path.parent.name)) for path in sorted(folder.glob("*/*"))]


def test_digits_come_back_through_ffcvs_own_loader(out):
    report = write_dataset("digits:test", out, progress=False)
    images, targets = load_digits("test")
    with restored():  # FFCV sets how many threads PyTorch and Numba have
        loader = Loader(
            str(out),
            batch_size=64,
            num_workers=1,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={"image": [SimpleRGBImageDecoder()]},
        )
        batches = [(torch.as_tensor(image).clone(), torch.as_tensor(label).clone()) for image, label in loader]
    assert (torch.cat([image for image, _ in batches]).numpy() == images).all()
    assert (torch.cat([label for _, label in batches]).numpy().ravel() == targets).all()
    assert report.num_samples == len(images) == Reader(str(out)).num_samples
    assert report.nbytes == out.stat().st_size
    assert report.write_mode == "raw"
    # ffcv itself would leave this type read-only, and no kernel that writes one could be compiled any more.
    assert numba.uint8[::1].mutable


def test_a_folder_is_stored_as_jpegs_in_sorted_order(photo_folder, out):
    write_dataset(photo_folder, out, progress=False)
    expected = paths_and_labels(photo_folder)
    samples = list(stored(out))
    assert [label for *_, label in samples] == [label for _, label in expected]
    for (path, _), (mode, height, width, payload, _) in zip(expected, samples, strict=True):
        pixels = np.asarray(Image.open(path))
        assert (mode, height, width) == (JPEG, *pixels.shape[:2])
        decoded = np.asarray(Image.open(io.BytesIO(payload)), dtype=int)
        assert np.abs(decoded - pixels).mean() < 4
    names = json.loads((out.parent / "data.beton.json").read_text())
    assert names == {"format": 1, "classes": ["bird", "cat", "dog"], "source": str(photo_folder)}


def test_raw_keeps_every_pixel(photo_folder, out):
    write_dataset(photo_folder, out, write_mode="raw", progress=False)
    for (path, _), (mode, height, width, payload, _) in zip(paths_and_labels(photo_folder), stored(out), strict=True):
        assert mode == RAW
        pixels = np.frombuffer(payload, np.uint8).reshape(height, width, 3)
        assert (pixels == np.asarray(Image.open(path))).all()


def test_smart_with_a_threshold_and_without(photo_folder, out):
    write_dataset(photo_folder, out, write_mode="smart", smart_threshold=20_000, progress=False)
    modes = {(height * width * 3 > 20_000, mode) for mode, height, width, *_ in stored(out)}
    assert modes == {(True, JPEG), (False, RAW)}

    save(photo_folder / "cat" / "tiny.png", np.zeros((2, 2, 3), np.uint8))
    write_dataset(photo_folder, out, write_mode="smart", force=True, progress=False)
    assert all((mode == RAW) == (height == 2) for mode, height, *_ in stored(out))
    assert all(len(payload) <= height * width * 3 for _, height, width, payload, _ in stored(out))


def test_max_resolution_bounds_the_longer_side(photo_folder, out):
    save(photo_folder / "dog" / "line.png", np.zeros((1, 1333, 3), np.uint8))
    write_dataset(photo_folder, out, max_resolution=50, progress=False)
    shapes = [np.asarray(Image.open(path)).shape[:2] for path, _ in paths_and_labels(photo_folder)]
    for (height, width), (_, stored_height, stored_width, *_) in zip(shapes, stored(out), strict=True):
        longest = max(height, width)
        assert max(stored_height, stored_width) == min(longest, 50)
        assert stored_height == max(1, height * min(50, longest) // longest)


@pytest.mark.parametrize("mode", ["jpg", "raw", "smart"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(photo_folder, out, mode):
    written = []
    for workers in (1, 4, 0):
        write_dataset(photo_folder, out, write_mode=mode, workers=workers, force=True, progress=False)
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("interval", [1, 3, 65535, None])
def test_restart_markers_change_no_pixel(photo_folder, out, interval):
    """The largest interval up to it that divides a row is in the header, markers are there, and FFCV's fields agree."""
    plain, marked = out.with_name("plain.beton"), out
    write_dataset(photo_folder, plain, restart_interval=0, progress=False)
    written = set()
    for workers in (1, 3):
        write_dataset(photo_folder, marked, restart_interval=interval, workers=workers, force=True, progress=False)
        for before, after in zip(stored(plain), stored(marked), strict=True):
            header = after[3].index(b"\xff\xdd\x00\x04")
            found, across = int.from_bytes(after[3][header + 4 : header + 6]), -(-before[2] // 16)
            assert found == max(n for n in range(1, across + 1) if across % n == 0 and n <= (interval or 2))
            assert b"\xff\xd0" in after[3] and b"\xff\xdd\x00\x04" not in before[3]
            assert before[:3] == after[:3] and before[4] == after[4]
            first, second = (np.asarray(Image.open(io.BytesIO(payload))) for payload in (before[3], after[3]))
            assert np.array_equal(first, second)
        written.add(marked.read_bytes())
    assert len(written) == 1


def test_no_payload_crosses_a_page_and_pages_grow(tmp_path, out):
    shapes = [(1000, 1100), (1200, 1300), (1700, 1700), (64, 64), (2400, 1900), (1000, 1100)]
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    for index, image in enumerate(images):
        save(tmp_path / "large" / "a" / f"{index}.bmp", image)
    write_dataset(tmp_path / "large", out, write_mode="raw", progress=False)
    reader = Reader(str(out))
    page = int(reader.page_size)
    first, size = reader.alloc_table["ptr"].astype(int), reader.alloc_table["size"].astype(int)
    assert page == 16 << 20
    assert (first // page == (first + size - 1) // page).all()
    assert int(reader.header["alloc_table_ptr"]) % page == 0
    assert all(payload == image.tobytes() for (*_, payload, _), image in zip(stored(out), images, strict=True))


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_a_broken_image_is_named_and_stops_the_run(photo_folder, out, damage):
    broken = photo_folder / "cat" / "001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes({"garbage": b"no image", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(DatasetError, match=r"cat/001\.jpg.*--skip-broken"):
        write_dataset(photo_folder, out, progress=False)
    assert list(out.parent.iterdir()) == []

    report = write_dataset(photo_folder, out, skip_broken=True, progress=False)
    assert report.num_samples == 11
    assert len(report.left_out) == 1 and "cat/001.jpg" in report.left_out[0]
    assert [label for *_, label in stored(out)] == [0] * 4 + [1] * 3 + [2] * 4


def test_a_class_left_without_images_is_an_error(photo_folder, out):
    for path in (photo_folder / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="no readable image is left in class cat"):
        write_dataset(photo_folder, out, skip_broken=True, progress=False)
    assert list(out.parent.iterdir()) == []


def test_an_existing_output_is_kept(photo_folder, out):
    out.write_bytes(b"mine")
    with pytest.raises(DatasetError, match="exists"):
        write_dataset(photo_folder, out, progress=False)
    assert out.read_bytes() == b"mine"
    write_dataset(photo_folder, out, force=True, progress=False)
    assert Reader(str(out)).num_samples == 12


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(photo_folder, out, monkeypatch, failure):
    append = write.BetonFile.append

    def append_two(self, *sample):
        if len(self._rows) == 2:
            raise failure
        append(self, *sample)

    monkeypatch.setattr(write.BetonFile, "append", append_two)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_dataset(photo_folder, out, progress=False)
    assert list(out.parent.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastlabel-write")]


def test_what_a_killed_run_left_is_cleared(photo_folder, out):
    leftover = out.with_name("data.beton.partial")
    leftover.write_bytes(b"x" * (64 << 20))
    report = write_dataset(photo_folder, out, progress=False)
    assert report.nbytes == out.stat().st_size < 64 << 20
    assert not leftover.exists()


def test_two_writers_of_one_output_are_refused(photo_folder, out):
    with open(out.with_name("data.beton.partial"), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another process is writing"):
            write_dataset(photo_folder, out, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"write_mode": "png"},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
        {"max_resolution": 0},
        {"workers": -1},
        {"smart_threshold": 10},
        {"write_mode": "smart", "smart_threshold": -1},
        {"restart_interval": -1},
        {"restart_interval": 65536},
        {"write_mode": "raw", "restart_interval": 4},
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(photo_folder, out, options):
    with pytest.raises(InputError):
        write_dataset(photo_folder, out, progress=False, **options)
    assert list(out.parent.iterdir()) == []


def test_a_missing_output_folder_is_refused(photo_folder, out):
    with pytest.raises(InputError, match="existing folder"):
        write_dataset(photo_folder, out.parent / "missing" / "a.beton", progress=False)


def test_a_class_id_out_of_range_is_named(out, monkeypatch):
    source = sources.DigitsSource("digits:test")
    source.classes = ["0", "1"]
    monkeypatch.setattr(write, "open_source", lambda _: source)
    with pytest.raises(DatasetError, match=r"digit \d+: class \d of 2 classes"):
        write_dataset("digits:test", out, progress=False)


@pytest.mark.fault("11.13 a side of 65,501 pixels")
def test_an_image_that_is_too_large_for_a_jpeg_is_named(photo_folder, out):
    save(photo_folder / "cat" / "long.png", np.zeros((1, 65501, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"cat/long\.png: 65501x1 pixels: a JPEG has at most 65500 .*--skip-broken"):
        write_dataset(photo_folder, out, progress=False)
    report = write_dataset(photo_folder, out, skip_broken=True, progress=False)
    assert report.num_samples == 12 and "cat/long.png" in report.left_out[0]
    for options, width in (
        ({"write_mode": "raw"}, 65501),
        ({"write_mode": "smart"}, 65501),
        ({"max_resolution": 9}, 9),
    ):
        write_dataset(photo_folder, out, force=True, progress=False, **options)
        assert max(found for _, _, found, *_ in stored(out)) == width and len(list(stored(out))) == 13


@pytest.mark.fault("11.6 half a JPEG")
def test_half_a_jpeg_is_listed(photo_folder, out):
    path = photo_folder / "dog" / "002.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    report = write_dataset(photo_folder, out, skip_broken=True, progress=False)
    assert report.num_samples == 11 and report.left_out[0].startswith(f"{path}: libjpeg says: ")


@pytest.mark.parametrize("interval", ["4", 1.5, True, -1, 65536])
def test_a_restart_interval_is_a_count_of_mcus(interval: object) -> None:
    with pytest.raises(InputError, match="restart_interval"):
        Encoder(restart_interval=interval)  # type: ignore[arg-type]
