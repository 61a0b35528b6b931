"""The resized crop: Numba gives the reference's bytes, and both are within 1 of 255 of torchvision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

from fastlabel.kernels.resized_crop import axis_weights_reference, resized_crop, resized_crop_reference
from fastlabel.kernels.resized_crop import numba as backend
from tests.conftest import photo_like

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int, int]


def random_image(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def extreme_image(height: int, width: int, seed: int = 0) -> Image:
    """Black and white only: what overflows, overflows here."""
    return (np.random.default_rng(seed).integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


def torchvision_crop(image: Image, box: Box, size: int) -> Image:
    top, left, height, width, flip = box
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    out = F.resized_crop(tensor, top, left, height, width, [size, size], antialias=True)
    out = F.horizontal_flip(out) if flip else out
    return out.permute(1, 2, 0).numpy()


def exact_crop(image: Image, box: Box, size: int) -> NDArray[np.float64]:
    """The definition in floating point: a triangle as wide as the scale, at least one pixel."""
    top, left, height, width, flip = box

    def weights(length: int) -> NDArray[np.float64]:
        centres = (np.arange(size)[:, None] + 0.5) * length / size
        raw = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres) / max(1, length / size))
        return raw / raw.sum(1, keepdims=True)

    inside = image[top : top + height, left : left + width]
    out = np.einsum("yj,jkc,xk->yxc", weights(height), inside, weights(width), optimize=True)
    return out[:, ::-1] if flip else out


def difference(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


@st.composite
def crops(draw: st.DrawFn, largest: int = 90, size: int = 40) -> tuple[Image, Box, int]:
    """An image, a box inside it and an output size, often with a side of 1 or at the last row or column."""
    image_height, image_width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    height, width = draw(st.integers(1, image_height)), draw(st.integers(1, image_width))
    top = draw(st.integers(0, image_height - height) | st.just(image_height - height))
    left = draw(st.integers(0, image_width - width) | st.just(image_width - width))
    make = draw(st.sampled_from([random_image, extreme_image]))
    image = make(image_height, image_width, draw(st.integers(0, 9)))
    return image, (top, left, height, width, draw(st.integers(0, 1))), draw(st.integers(1, size))


@settings(deadline=None, max_examples=200)
@given(crop=crops())
@example(crop=(random_image(41, 401), (0, 0, 41, 401, 1), 17))
@example(crop=(random_image(1271, 3), (1, 0, 1270, 3, 0), 41))
@example(crop=(extreme_image(64, 64), (63, 63, 1, 1, 0), 7))
@example(crop=(extreme_image(64, 64), (0, 63, 64, 1, 1), 64))
@example(crop=(extreme_image(1, 1), (0, 0, 1, 1, 0), 1))
@example(crop=(extreme_image(2000, 2), (0, 0, 2000, 2, 0), 1))
def test_numba_equals_reference(crop: tuple[Image, Box, int]) -> None:
    image, box, size = crop
    assert np.array_equal(resized_crop(image, box, size), resized_crop_reference(image, box, size))


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 160, 41, 9])
@pytest.mark.parametrize(
    "box", [(0, 0, 375, 500, 1), (5, 60, 340, 360, 0), (3, 99, 41, 401, 0), (0, 0, 375, 1, 1), (9, 7, 160, 224, 1)]
)
def test_sizes_of_imagenet_equal_reference(box: Box, size: int) -> None:
    """Every number of taps, and of rows that are left over by a tile of 8."""
    image = random_image(375, 500)
    assert np.array_equal(resized_crop(image, box, size), resized_crop_reference(image, box, size))


@settings(deadline=None, max_examples=50)
@given(
    views=st.lists(st.tuples(crops(largest=60), st.sampled_from([1, 5, 8, 16, 31])), min_size=1, max_size=6),
    filling=st.sampled_from([0, 127, 255]),
)
def test_one_scratch_serves_any_crops(views: list[tuple[tuple[Image, Box, int], int]], filling: int) -> None:
    """What it held before shows nowhere; nothing is written behind it or behind the crop."""
    room = max(backend.scratch_bytes(60, 60, size) for _, size in views)
    memory = np.full(room + 64, filling, np.uint8)
    memory[room:] = 77
    for (image, box, _), size in views:
        out = np.full((2, size, size, 3), 99, np.uint8)
        assert backend.resized_crop_in(image, np.array(box, np.int32), out[0], memory[:room])
        assert np.array_equal(out[0], resized_crop_reference(image, box, size))
        assert (out[1] == 99).all() and (memory[room:] == 77).all()


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 400), st.integers(0, 2999), st.integers(0, 2999))
def test_scratch_for_an_image_is_enough_for_its_boxes(height: int, width: int, size: int, less: int, left: int) -> None:
    box = max(1, height - less), max(1, width - left)
    assert backend.scratch_bytes(*box, size) <= backend.scratch_bytes(height, width, size)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 224])
@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 223, 225, 500, 1271])
def test_axis_weights(length: int, size: int) -> None:
    """The kernel's compact weights are the reference's; a row sums to one, reads inside, is never negative."""
    first, weights = np.empty(size, np.int32), np.full((size, backend.taps_at_most(length, size)), -1, np.int16)
    backend.axis_weights(length, size, first, weights)
    expected = axis_weights_reference(length, size)
    dense = np.zeros_like(expected)
    for i in range(size):
        for tap in np.flatnonzero(weights[i]):
            dense[i, first[i] + tap] = weights[i, tap]
    assert np.array_equal(dense, expected)
    assert (expected >= 0).all() and (expected.sum(1) == 1 << 14).all()
    assert np.array_equal(expected, expected[::-1, ::-1]) or length > size  # what rounding leaves goes to one side


def test_axis_weights_by_hand() -> None:
    """4 -> 2: distances 0.5 and 1.5 of a support of 2: weights 3 : 3 : 1, and 1 : 3 : 3 within the image."""
    assert axis_weights_reference(4, 2).tolist() == [[7021, 7022, 2341, 0], [0, 2341, 7021, 7022]]
    assert axis_weights_reference(2, 4).tolist() == [[16384, 0], [12288, 4096], [4096, 12288], [0, 16384]]
    assert axis_weights_reference(3, 1).tolist() == [[4681, 7022, 4681]]


SCALES = [1 / 8, 1 / 5, 1 / 3, 1 / 2, 0.77, 0.99, 1.01, 1.5, 2, 3.3, 5, 8]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["photo", "noise", "extreme"])
def test_within_one_of_torchvision(kind: str, scale: float) -> None:
    """``scale`` pixels of the image for one of the crop, more or less of them along the other axis."""
    make = {"photo": lambda h, w, s: photo_like(h, w, 1, s), "noise": random_image, "extreme": extreme_image}[kind]
    for seed, (size, stretch) in enumerate([(32, 1.0), (41, 1.3), (64, 0.8)]):
        height, width = max(1, round(size * scale)), max(1, round(size * scale * stretch))
        image = make(height + 7, width + 3, seed)
        for top, left in ((0, 0), (7, 3), (2, 1)):
            box = (top, left, height, width, seed % 2)
            assert difference(resized_crop(image, box, size), torchvision_crop(image, box, size)) <= 1


@settings(deadline=None, max_examples=100)
@given(crop=crops(largest=200, size=64).filter(lambda crop: max(crop[1][2:4]) <= 8 * crop[2] <= 64 * min(crop[1][2:4])))
def test_any_box_is_within_one_of_torchvision(crop: tuple[Image, Box, int]) -> None:
    image, box, size = crop
    assert difference(resized_crop(image, box, size), torchvision_crop(image, box, size)) <= 1


def test_imagenet_sizes_are_within_one_of_torchvision() -> None:
    image = photo_like(375, 500, 0, 3)
    image[100:200, 200:300] = random_image(100, 100)
    for box in ((0, 0, 375, 500, 0), (3, 120, 371, 380, 1), (200, 300, 120, 110, 0), (374, 400, 1, 100, 1)):
        ours, theirs = resized_crop(image, box, 224), torchvision_crop(image, box, 224)
        assert difference(ours, theirs) <= 1
        # torchvision rounds to whole numbers between the two axes, we to 1/128: ours are the closer ones.
        assert (ours != theirs).mean() < 0.2
        assert np.abs(ours - exact_crop(image, box, 224)).max() < 0.51
        assert abs(float(ours.mean()) - float(theirs.mean())) < 0.02  # no bias from the rounding


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
@pytest.mark.parametrize("length", [1, 5, 31, 33, 64, 300, 3000])
def test_a_flat_image_stays_flat(value: int, length: int) -> None:
    image = np.full((length, 9, 3), value, np.uint8)
    for size in (1, 7, 32):
        assert (resized_crop(image, (0, 0, length, 9, 0), size) == value).all()


@settings(deadline=None)
@given(crop=crops())
def test_a_crop_stays_between_the_darkest_and_the_brightest_pixel(crop: tuple[Image, Box, int]) -> None:
    image, (top, left, height, width, flip), size = crop
    inside = image[top : top + height, left : left + width] // 2 + 60
    image = np.zeros_like(image)
    image[top : top + height, left : left + width] = inside
    out = resized_crop(image, (top, left, height, width, flip), size)
    assert inside.min() <= out.min() and out.max() <= inside.max()


@pytest.mark.parametrize("flip", [0, 1])
def test_a_box_of_the_output_size_is_a_copy(flip: int) -> None:
    image = random_image(50, 60)
    out = resized_crop(image, (18, 28, 32, 32, flip), 32)
    expected = image[18:, 28:]
    assert np.array_equal(out, expected[:, ::-1] if flip else expected)
    out[:] = 0
    assert image.any()


def test_a_flip_mirrors_the_crop() -> None:
    image = random_image(70, 50)
    for size in (9, 33, 64):
        plain = resized_crop(image, (3, 4, 60, 41, 0), size)
        assert np.array_equal(resized_crop(image, (3, 4, 60, 41, 1), size), plain[:, ::-1])


@settings(deadline=None)
@given(
    top=st.integers(-50, 50),
    left=st.integers(-50, 50),
    size=st.integers(1, 40),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    flip=st.integers(0, 1),
)
def test_outside_the_image_a_pad_crop_is_black(
    top: int, left: int, size: int, height: int, width: int, flip: int
) -> None:
    image = random_image(height, width) | 1  # never black
    out = resized_crop(image, (top, left, size, size, flip), size)
    padded = np.pad(image, ((100, 100), (100, 100), (0, 0)))
    expected = padded[100 + top : 100 + top + size, 100 + left : 100 + left + size]
    assert np.array_equal(out, expected[:, ::-1] if flip else expected)
    assert np.array_equal(out, resized_crop_reference(image, (top, left, size, size, flip), size))


@pytest.mark.parametrize(
    "box",
    [
        (-1, 0, 10, 10, 0),
        (0, -1, 10, 10, 0),
        (11, 0, 10, 10, 0),
        (0, 21, 10, 10, 0),
        (0, 0, 21, 10, 0),
        (0, 0, 10, 31, 0),
        (2**31 - 5, 0, 10, 10, 0),
        (0, 0, 0, 10, 0),
        (0, 0, 10, -1, 0),
        (0, 0, 10, 10),
        (),
    ],
)
def test_a_box_that_leaves_the_image_and_needs_a_resize_is_refused(box: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        resized_crop(random_image(20, 30), box, 8)


def test_other_images_and_sizes_are_refused() -> None:
    box = (0, 0, 4, 4, 0)
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            resized_crop(image, box, 4)  # type: ignore[arg-type]
    for size in (0, -3):
        with pytest.raises(ValueError, match="size of 1 or more"):
            resized_crop(np.zeros((4, 4, 3), np.uint8), (0, 0, size, size, 0), size)


def test_images_of_any_layout() -> None:
    """Strided, Fortran-ordered and read-only images give what their copies give."""
    image = random_image(40, 60)
    read_only = image.copy()
    read_only.flags.writeable = False
    for other in (image[::-1, ::2], np.asfortranarray(image), read_only):
        box = (1, 2, 30, 25, 1)
        assert np.array_equal(resized_crop(other, box, 16), resized_crop(np.array(other, order="C"), box, 16))


PROCESSORS = {  # NUMBA_CPU_NAME and NUMBA_CPU_FEATURES of code that this processor runs, too
    "sse2": ("x86-64", "+sse2"),
    "avx2": ("x86-64", "+sse2,+ssse3,+sse4.1,+avx,+avx2"),
    "plain": ("", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_any_processor_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """In a process of its own, which makes code for another processor, or for one that is not known."""
    cpu, features = PROCESSORS[name]
    if name != "plain" and not (platform.machine() == "x86_64" and get_host_cpu_features().get(name)):
        pytest.skip(f"this processor has no {name}")
    code = """
        import sys
        import numpy as np
        from fastlabel.kernels.resized_crop import resized_crop, resized_crop_reference, vectors

        if sys.argv[1] == "plain":
            vectors.unit_for = lambda triple, features: vectors.Plain()
        used, make = [], vectors.unit_for
        vectors.unit_for = lambda *target: used.append(make(*target)) or used[-1]
        random = np.random.default_rng(0)
        for height, width in ((41, 401), (64, 64), (130, 90), (9, 10), (300, 11), (1, 1)):
            image = (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
            for size in (1, 17, 32, 96):
                for flip in (0, 1):
                    box = (0, 0, height, width, flip)
                    assert np.array_equal(resized_crop(image, box, size), resized_crop_reference(image, box, size))
        print({unit.lanes for unit in used}, type(used[0]).__name__)
    """
    variables = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features} if cpu else {}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), name],
        env={**os.environ, **variables, "NUMBA_CACHE_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == {"sse2": "{8} X86", "avx2": "{16} X86", "plain": "{8} Plain"}[name]


@pytest.mark.parametrize("flip", [0, 1])
def test_a_copy_that_partly_leaves_the_image(flip: int) -> None:
    """The room beside and below it is black, whatever the output held before."""
    image = random_image(20, 30) | 1
    for top, left in ((-3, -5), (10, 20), (-40, 0), (0, 40), (2, -24), (-10, 10)):
        box = (top, left, 24, 24, flip)
        assert np.array_equal(resized_crop(image, box, 24), resized_crop_reference(image, box, 24))


@pytest.mark.slow
def test_nothing_outside_the_image_is_read() -> None:
    """In a process of its own: the image ends where readable memory ends, and begins where it begins."""
    code = """
        import ctypes, mmap
        import numpy as np
        from fastlabel.kernels.resized_crop import resized_crop, resized_crop_reference

        page = mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        room = 16 * page
        memory = mmap.mmap(-1, room + 2 * page)
        whole = np.frombuffer(memory, np.uint8)
        for guard in (0, room + page):
            assert libc.mprotect(whole.ctypes.data + guard, page, 0) == 0
        inside = whole[page : page + room]
        random = np.random.default_rng(0)
        for height, width in ((1, 1), (2, 3), (5, 64), (41, 37), (64, 5), (100, 200), (20, 31)):
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            for image in (inside[-pixels.size :], inside[: pixels.size]):
                image = image.reshape(pixels.shape)
                image[:] = pixels
                for size in (1, 3, 8, 32, 50):
                    for h, w in {(height, width), (1, 1), (1, width), (height, 1), (height // 2 + 1, width // 2 + 1)}:
                        for top, left in {(0, 0), (height - h, width - w)}:
                            box = (top, left, h, w, (h + w) % 2)
                            out = resized_crop(image, box, size)
                            assert np.array_equal(out, resized_crop_reference(pixels, box, size))
                    box = (-3, width - 1, size, size, 1)
                    assert np.array_equal(
                        resized_crop(image, box, size), resized_crop_reference(pixels, box, size)
                    )
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)
