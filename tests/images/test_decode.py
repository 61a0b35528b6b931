"""Decoding: Pillow's pixels, FFCV's files as they are, and what is said of an image that does not decode."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fastlabel.dataset import turbojpeg
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.beton_writer import BetonFile
from fastlabel.dataset.encode import Encoder
from fastlabel.dataset.turbojpeg import BROKEN_JPEG, OK, WRONG_SIZE, decode_jpeg
from fastlabel.errors import ImageDecodeError
from fastlabel.images import decode as decode_module
from fastlabel.images import decode_whole
from fastlabel.images.decode import BAD_BOX, BAD_MODE, BAD_RAW_SIZE, decode_views, explain
from fastlabel.images.file_bytes import CUT_SHORT, READ_FAILED
from fastlabel.images.loader import ImageLoader
from fastlabel.images.workspace import Workspace
from fastlabel.kernels.numba_cache import all_of
from fastlabel.kernels.resized_crop import resized_crop, resized_crop_reference
from fastlabel.views import ViewPolicy
from tests.betons import WriteBeton
from tests.conftest import photo_like

Pixels = NDArray[np.uint8]
SHAPES = [(1, 1), (1, 33), (17, 1), (8, 16), (41, 97), (64, 64), (130, 255)]


def make_pixels(height: int, width: int, kind: str) -> Pixels:
    if kind == "photo" and min(height, width) > 1:
        return photo_like(height, width, 1, height * width)
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels: Pixels, kind: str) -> bytes:
    """JPEG bytes by Pillow or, as FFCV writes them, by OpenCV."""
    if kind == "opencv":
        return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    image, options = Image.fromarray(pixels), {"quality": 90}
    if kind == "grayscale":
        image = image.convert("L")
    elif kind == "progressive":
        options["progressive"] = True
    elif kind == "restarts":
        options["restart_marker_rows"] = 1
    elif kind == "quality 100":
        options["quality"] = 100
    else:
        options["subsampling"] = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[kind]
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def pillow_pixels(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def turbojpeg_pixels(jpeg: bytes, height: int, width: int) -> tuple[int, Pixels]:
    """Status and pixels; the scratch memory is a canary, to see where nothing was written."""
    out = np.full(height * width * 3 + 100, 77, np.uint8)
    status = decode_jpeg(np.frombuffer(jpeg, np.uint8), height, width, out)
    assert (out[height * width * 3 :] == 77).all()
    return status, out[: height * width * 3].reshape(height, width, 3)


@pytest.mark.parametrize("content", ["photo", "noise"])
@pytest.mark.parametrize(
    "kind", ["4:4:4", "4:2:2", "4:2:0", "grayscale", "progressive", "restarts", "quality 100", "opencv"]
)
def test_pixels_are_those_of_pillow(kind: str, content: str) -> None:
    """Exactly, whatever the subsampling: both are libjpeg-turbo with the accurate DCT and smooth upsampling."""
    for height, width in SHAPES:
        jpeg = encode(make_pixels(height, width, content), kind)
        status, pixels = turbojpeg_pixels(jpeg, height, width)
        assert status == OK
        assert np.array_equal(pixels, pillow_pixels(jpeg)), (height, width)


def test_a_warning_of_libjpeg_is_an_error() -> None:
    jpeg = encode(make_pixels(64, 64, "photo"), "4:2:0")
    early_end = jpeg[: len(jpeg) // 2] + b"\xff\xd9" + jpeg[len(jpeg) // 2 + 2 :]
    for broken in (jpeg[:-2], jpeg[: len(jpeg) // 2], early_end, b"", b"\0" * 500, b"\0" * 100 + jpeg[100:]):
        assert turbojpeg_pixels(broken, 64, 64)[0] == BROKEN_JPEG
        assert turbojpeg.explain(broken, 64, 64).startswith("libjpeg says: ")
    assert "remature" in turbojpeg.explain(jpeg[:-2], 64, 64)
    assert turbojpeg_pixels(jpeg, 64, 64)[0] == OK


def test_a_jpeg_of_another_size_is_not_decoded() -> None:
    """It would be written past the end of the memory that the index promises."""
    jpeg = encode(make_pixels(64, 48, "photo"), "4:2:0")
    for height, width in ((48, 64), (32, 32), (64, 49)):
        status, pixels = turbojpeg_pixels(jpeg, height, width)
        assert status == WRONG_SIZE and (pixels == 77).all()
    assert turbojpeg.explain(jpeg, 48, 64) == "the JPEG is 64x48 pixels, the file's index says 48x64"


def without(jpeg: bytes, marker: int) -> bytes:
    """JPEG bytes without the segments of one kind."""
    at, kept = 2, [jpeg[:2]]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] != marker:
            kept.append(jpeg[at:end])
        at = end
    return b"".join([*kept, jpeg[at:]])


@pytest.mark.fault("11.2 JPEG state leaks")
def test_nothing_of_an_image_is_left_for_the_next_one() -> None:
    """A JPEG without its quantisation tables would be decoded by those of whatever came before it."""
    pixels = make_pixels(40, 48, "photo")
    coarse, fine = (encode_with_quality(pixels, quality) for quality in (5, 95))
    bare = without(fine, 0xDB)
    for before in (coarse, fine):
        assert turbojpeg_pixels(before, 40, 48)[0] == OK
        assert turbojpeg_pixels(bare, 40, 48)[0] == BROKEN_JPEG
    assert "uantization table" in turbojpeg.explain(bare, 40, 48)
    # Without Huffman tables libjpeg takes the standard's, as for Motion JPEG: its own, not those of an image before.
    custom = encode_with_quality(pixels, 95, optimize=True)
    plain = without(fine, 0xC4)
    for before in (custom, fine):
        assert turbojpeg_pixels(before, 40, 48)[0] == OK
        status, found = turbojpeg_pixels(plain, 40, 48)
        assert status == OK and np.array_equal(found, pillow_pixels(fine))


@pytest.mark.fault("11.2 JPEG state leaks")
def test_a_jpeg_without_its_tables_is_named(tmp_path: Path) -> None:
    """Whatever the same thread decoded before it."""
    pixels = make_pixels(40, 48, "photo")
    jpegs = [encode_with_quality(pixels, 5), without(encode_with_quality(pixels, 95), 0xDB)]
    field = Encoder().encode(pixels).image_field
    with open(tmp_path / "a.beton", "wb") as handle:
        file = BetonFile(handle, 2, page_size=4096)
        for jpeg in jpegs:
            file.append(field, np.frombuffer(jpeg, np.uint8), 0)
        file.finish()
    loader = ImageLoader(tmp_path / "a.beton", ViewPolicy.identity(16), 4, num_workers=1)
    for _ in range(3):
        assert len(loader.decode([0, 0], [0]).ids) == 2
        with pytest.raises(ImageDecodeError, match=r"sample 1 of .* cannot be decoded: .*uantization table"):
            loader.decode([0, 1, 0], [0])


def encode_with_quality(pixels: Pixels, quality: int, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


@pytest.mark.fault("11.2 a broken header poisons")
def test_a_broken_image_harms_no_image_after_it() -> None:
    """A decompressor that had met broken headers would refuse healthy images, at the latest after 127 of them."""
    good = encode(make_pixels(20, 30, "photo"), "4:2:0")
    wanted = pillow_pixels(good)
    kinds = (
        good[:-40],
        b"",
        good[:200],
        good[:3] + b"\0" * 50,
        b"\xff\xd8\xff\xc4\x00\x03\x55" + good[2:],
        good[:30] * 9,
    )
    for _ in range(60):
        for broken in kinds:
            assert turbojpeg_pixels(broken, 20, 30)[0] != OK
            status, found = turbojpeg_pixels(good, 20, 30)
            assert status == OK and np.array_equal(found, wanted)


@pytest.mark.fault("11.2 a broken header poisons")
def test_a_healthy_sample_is_never_blamed_for_a_broken_one(write_beton: WriteBeton) -> None:
    """Whichever thread decodes them, and whatever came before."""
    beton = Beton.open(write_beton([make_pixels(32, 32, "photo")] * 24))
    at = int(beton.offsets[5])
    with open(beton.path, "r+b") as file:
        file.seek(at + 2)
        file.write(b"\xff\xc4\x00\x02")  # an empty Huffman segment
    beton = Beton.open(beton.path)
    boxes = np.tile(np.array([0, 0, 32, 32, 0], np.int32), (24, 1, 1))
    for _ in range(160):
        status, _ = statuses(beton, boxes)
        assert [sample for sample in range(24) if status[sample] != OK] == [5]


@pytest.mark.parametrize("name", ["jpg", "raw", "smart", "proportion", "resized", "extra"])
def test_betons_of_ffcv_decode_as_they_are(ffcv_betons: Path, ffcv_images: list[Pixels], name: str) -> None:
    """Every crop is the reference's crop of the pixels that went in, or of the JPEG as Pillow reads it."""
    beton = Beton.open(ffcv_betons / f"{name}.beton")
    policy = ViewPolicy.random_resized_crop(24, seed=4)
    batches = list(ImageLoader(beton, policy, batch_size=5).epoch(np.arange(beton.num_samples), [0, 3]))
    crops = np.concatenate([batch.images.numpy() for batch in batches])
    assert crops.shape == (16, 2, 24, 24, 3)
    raw = beton.index["mode"] == decode_module.RAW
    for sample in range(beton.num_samples):
        pixels = ffcv_images[sample] if raw[sample] else pillow_pixels(beton.payload(sample))
        assert pixels.shape[:2] == (beton.heights[sample], beton.widths[sample])
        for index, view in enumerate((0, 3)):
            box = policy.boxes(view, [sample], pixels.shape[:1], pixels.shape[1:2])[0]
            assert np.array_equal(crops[sample, index], resized_crop(pixels, box.tolist(), 24))
            assert np.array_equal(crops[sample, index], resized_crop_reference(pixels, box.tolist(), 24))
    assert {"jpg": 0, "raw": 16, "resized": 0}.get(name, raw.sum()) == raw.sum()


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_identity_gives_the_stored_pixels(write_beton: WriteBeton, mode: str) -> None:
    images = [make_pixels(32, 32, "photo"), make_pixels(32, 32, "noise")]
    beton = Beton.open(write_beton(images, mode))
    crops = ImageLoader(beton, ViewPolicy.identity(32), 2).decode([0, 1], [0]).images[:, 0].numpy()
    stored = images if mode == "raw" else [pillow_pixels(beton.payload(sample)) for sample in (0, 1)]
    assert np.array_equal(crops, stored)


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_pad_crop_of_a_file(write_beton: WriteBeton, mode: str) -> None:
    """Black where the box leaves the image, not what the memory held before."""
    images = [np.full((32, 32, 3), 200, np.uint8)] * 40
    policy = ViewPolicy.pad_crop(32, seed=1, padding=8)
    loader = ImageLoader(write_beton(images, mode), policy, 8)
    for batch in loader.epoch(np.arange(40), [0, 1, 2]):
        assert set(np.unique(batch.images.numpy())) == {0, 200}


def test_images_of_very_different_sizes_share_the_scratch_memory(write_beton: WriteBeton) -> None:
    """A small image after a large one must not show what the large one left."""
    shapes = [(300, 200), (1, 1), (200, 300), (3, 2), (64, 64), (1, 300), (300, 1)]
    images = [make_pixels(height, width, "noise") for height, width in shapes] * 3
    beton = Beton.open(write_beton(images))
    loader = ImageLoader(beton, ViewPolicy.identity(16), 5, num_workers=1)
    crops = np.concatenate([batch.images.numpy() for batch in loader.epoch(np.arange(21), [0])])
    for sample in range(21):
        pixels = pillow_pixels(beton.payload(sample))
        assert np.array_equal(crops[sample, 0], resized_crop(pixels, (0, 0, *pixels.shape[:2], 0), 16))


def statuses(beton: Beton, boxes: NDArray[np.int32], size: int = 8) -> tuple[list[int], Pixels]:
    """The kernel itself, for all samples of a file with one box each."""
    count, threads = beton.num_samples, int(numba.config.NUMBA_NUM_THREADS)
    sides = np.full(1, 200, np.int32)
    workspace = Workspace(threads, sides, sides, 200 * 200 * 3, size)
    out, status = np.full((count, 1, size, size, 3), 99, np.uint8), np.full(count, -1, np.int64)
    file = beton.file.descriptor
    decode_views(np.arange(count), file, beton.index, beton.nbytes, boxes, out, status, *workspace.arrays())
    return status.tolist(), out


def test_each_sample_has_a_status_of_its_own(write_beton: WriteBeton) -> None:
    images = [make_pixels(40, 30, "photo")] * 6
    jpg, raw = Beton.open(write_beton(images, "jpg", "jpg")), Beton.open(write_beton(images, "raw", "raw"))
    boxes = np.tile(np.array([0, 0, 40, 30, 0], np.int32), (6, 1, 1))
    assert statuses(jpg, boxes)[0] == statuses(raw, boxes)[0] == [OK] * 6
    boxes[2, 0, 2] = 41
    jpg.index["mode"][1], raw.index["mode"][1] = 2, 255
    jpg.index["height"][4] = raw.index["height"][4] = 39
    assert statuses(jpg, boxes)[0] == [OK, BAD_MODE, BAD_BOX, OK, WRONG_SIZE, OK]
    status, out = statuses(raw, boxes)
    assert status == [OK, BAD_MODE, BAD_BOX, OK, BAD_RAW_SIZE, OK]
    assert [(crop == 99).all() for crop in out] == [False, True, True, False, True, False]


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_bytes_that_are_not_there_are_a_status(write_beton: WriteBeton, mode: str) -> None:
    beton = Beton.open(write_beton([make_pixels(40, 30, "photo")] * 4, mode))
    boxes = np.tile(np.array([0, 0, 40, 30, 0], np.int32), (4, 1, 1))
    os.truncate(beton.path, int(beton.offsets[2] + beton.nbytes[2] - 1))
    status, out = statuses(beton, boxes)
    assert status == [OK, OK, CUT_SHORT, CUT_SHORT] and (out[2:] == 99).all()
    assert explain(CUT_SHORT, beton, 2) == "the file ends before its bytes do"
    beton.file.descriptor = -1
    assert statuses(beton, boxes)[0] == [READ_FAILED] * 4
    assert explain(READ_FAILED, beton, 0).startswith("its bytes cannot be read: [Errno 9]")


def test_explanations(write_beton: WriteBeton) -> None:
    beton = Beton.open(write_beton([make_pixels(40, 30, "photo")], "raw"))
    assert explain(BAD_RAW_SIZE, beton, 0) == "3600 raw bytes do not make 40x30 RGB pixels"
    assert explain(BAD_BOX, beton, 0) == "its crop box leaves the image of 40x30 pixels"
    assert "neither jpg nor raw" in explain(BAD_MODE, beton, 0)
    assert explain(BROKEN_JPEG, beton, 0).startswith("libjpeg says: ")
    good = Beton.open(write_beton([make_pixels(40, 30, "photo")]))
    assert "it decodes now" in explain(BROKEN_JPEG, good, 0)


def test_every_file_that_is_compiled_into_the_decoder_is_known_to_its_cache() -> None:
    """Else a change of it would not be seen, see kernels/numba_cache.py."""
    known = {module.__name__ for module in all_of([decode_module])}
    folder = "fastlabel.kernels.resized_crop."
    crop = {folder + name for name in ("numba", "columns", "rows", "scratch", "vectors", "weights", "reference")}
    assert crop | {"fastlabel.dataset.turbojpeg", "fastlabel.images.file_bytes"} <= known
    assert {"fastlabel.dataset.turbojpeg", "fastlabel.images.file_bytes"} <= {
        module.__name__ for module in all_of([decode_whole])
    }
