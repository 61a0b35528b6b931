"""Regions of JPEGs with restart markers: the pixels of the whole decode, or none at all."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fastlabel.dataset.tables import JPEG
from fastlabel.dataset.turbojpeg import OK, decode_jpeg, read_jpeg
from fastlabel.images.decode import crop_payload
from fastlabel.images.region import MARGIN, take_region
from fastlabel.kernels.resized_crop.numba import resized_crop, scratch_bytes

Bytes = NDArray[np.uint8]
SAMPLINGS = {
    "444": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, 1, 1),
    "422": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, 1, 2),
    "440": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, 2, 1),
    "420": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 2, 2),
    "411": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411, 1, 4),
}


def picture(height: int, width: int, seed: int, channels: int = 3) -> Bytes:
    """Noise over large shapes: every pixel and every colour differs from its neighbours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, channels), dtype=np.uint8)
    large = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    noise = rng.integers(-30, 30, large.shape)
    return np.clip(large.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def encoded(image: Bytes, interval: int, sampling: str = "420", *more: int) -> Bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_RST_INTERVAL, interval, *more]
    if image.shape[2] == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling][0]]
    return np.asarray(cv2.imencode(".jpg", image, options)[1]).reshape(-1)


def region_of(jpeg: Bytes, shape: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[Bytes, int, int] | None:
    """Pixels of the region of a box (top, left, bottom, right) and where it begins."""
    room = np.zeros(jpeg.size, np.uint8)
    nbytes, y, x, height, width = take_region(jpeg, *shape, *box, room)
    if not nbytes:
        return None
    pixels = np.zeros(height * width * 3, np.uint8)
    assert decode_jpeg(room[:nbytes], height, width, pixels) == OK
    return pixels.reshape(height, width, 3), y, x


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pixels_are_those_of_the_whole_decode(data: st.DataObject) -> None:
    sampling = data.draw(st.sampled_from(sorted(SAMPLINGS)))
    height, width = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 140))
    channels = data.draw(st.sampled_from([3, 3, 1]))
    across = -(-width // (8 * SAMPLINGS[sampling][2] if channels == 3 else 8))
    interval = data.draw(st.sampled_from([n for n in range(1, across + 1) if across % n == 0]))
    image = picture(height, width, data.draw(st.integers(0, 99)), channels)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    jpeg = encoded(image, interval, sampling)
    whole, complaint = read_jpeg(jpeg.tobytes(), height, width)
    assert complaint is None
    found = region_of(jpeg, (height, width), (top, left, bottom, right))
    if found is None:
        return
    pixels, y, x = found
    assert y <= max(0, top - MARGIN) and x <= max(0, left - MARGIN)
    inside = pixels[top - y : bottom - y, left - x : right - x]
    np.testing.assert_array_equal(inside, whole[top:bottom, left:right])


@pytest.mark.parametrize("sampling", sorted(SAMPLINGS))
@pytest.mark.parametrize("interval", [1, 2])
def test_a_small_box_is_a_small_region(sampling: str, interval: int) -> None:
    jpeg = encoded(picture(130, 128, 3), interval, sampling)
    found = region_of(jpeg, (130, 128), (40, 40, 60, 60))
    assert found is not None and found[0].shape[0] <= 48 and found[0].shape[1] < 128
    assert found[0].size < 130 * 128 * 3 / 2


def test_what_is_decoded_as_a_whole() -> None:
    image, shape, box = picture(64, 64, 1), (64, 64), (5, 5, 20, 20)
    marked = encoded(image, 2)
    assert region_of(marked, shape, box) is not None
    saved = io.BytesIO()
    Image.fromarray(np.dstack([image, image[..., :1]]), "CMYK").save(saved, "jpeg", restart_marker_blocks=1)
    other = {
        "no markers": encoded(image, 0),
        "progressive": encoded(image, 2, "420", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "an interval that divides no row": encoded(image, 3),
        "CMYK": np.frombuffer(saved.getvalue(), np.uint8),
        "another size": encoded(picture(64, 63, 1), 1),
        "nothing": np.zeros(0, np.uint8),
    }
    for name, jpeg in other.items():
        assert region_of(jpeg, shape, box) is None, name
    assert region_of(marked, shape, (0, 0, 64, 64)) is None  # all of it
    assert region_of(marked, shape, (70, 70, 80, 80)) is None  # none of it
    assert take_region(marked, *shape, *box, np.zeros(marked.size - 1, np.uint8))[0] == 0


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_changed_files_never_give_other_pixels_where_the_whole_is_sound(seed: int) -> None:
    """Bytes changed, cut, doubled, markers renumbered: a region is the whole decode's, or the whole one complains too.

    Damage outside a region may go unnoticed; damage inside one is told by the whole decode, which crop_payload takes.
    """
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(20, 100)), int(rng.integers(20, 100))
    across = -(-width // 16)
    jpeg = encoded(picture(height, width, seed % 100), int(rng.choice([n for n in (1, 2, 3) if across % n == 0])))
    broken = jpeg.copy()
    way = rng.integers(4)
    if way == 0:
        broken[rng.integers(0, jpeg.size, rng.integers(1, 4))] = rng.integers(0, 256)
    elif way == 1:
        broken = broken[: rng.integers(1, jpeg.size)]
    elif way == 2:
        at, end = np.sort(rng.integers(0, jpeg.size, 2))
        broken = np.concatenate([jpeg[:end], jpeg[at:]])
    else:
        markers = np.flatnonzero((jpeg[:-1] == 0xFF) & (jpeg[1:] >= 0xD0) & (jpeg[1:] <= 0xD9))
        broken[rng.choice(markers) + 1] = 0xD0 + rng.integers(0, 10)
    top, left = int(rng.integers(0, height - 8)), int(rng.integers(0, width - 8))
    boxes = np.array([[top, left, 8, 8, 0]], np.int32)
    crop, room = np.zeros((1, 8, 8, 3), np.uint8), np.zeros(height * width * 3, np.uint8)
    status = crop_payload(JPEG, broken, height, width, boxes, crop, room, np.zeros(scratch_bytes(8, 8, 8), np.uint8))
    whole, complaint = read_jpeg(broken.tobytes(), height, width)
    if complaint is None:
        assert status == OK
        np.testing.assert_array_equal(crop[0], whole[top : top + 8, left : left + 8])


@pytest.mark.parametrize("views", [1, 3])
def test_crops_are_those_of_the_whole_image(views: int) -> None:
    rng, size = np.random.default_rng(views), 24
    for number in range(12):
        height, width = int(rng.integers(40, 200)), 16 * int(rng.integers(3, 12))
        jpeg = encoded(picture(height, width, number), next(n for n in (3, 2, 1) if width // 16 % n == 0))
        sides = rng.integers(8, 40, (views, 2))
        places = np.column_stack([rng.integers(0, height - sides[:, 0] + 1), rng.integers(0, width - sides[:, 1] + 1)])
        if number % 3 == 0:  # a pad-crop's boxes leave the image
            sides[:], places = size, rng.integers(-4, 8, (views, 2))
        boxes = np.column_stack([places, sides, rng.integers(0, 2, views)]).astype(np.int32)
        crops, pixels = np.zeros((views, size, size, 3), np.uint8), np.zeros(height * width * 3, np.uint8)
        scratch = np.zeros(scratch_bytes(height, width, size), np.uint8)
        assert crop_payload(JPEG, jpeg, height, width, boxes, crops, pixels, scratch) == OK
        whole, _ = read_jpeg(jpeg.tobytes(), height, width)
        for box, crop in zip(boxes, crops, strict=True):
            wanted = np.zeros_like(crop)
            assert resized_crop(whole, box, wanted)
            np.testing.assert_array_equal(crop, wanted)
