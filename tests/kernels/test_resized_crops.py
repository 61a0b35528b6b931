"""Every view of a batch of whole images: the reference's bytes from Numba, from Triton (interpreted without a GPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastlabel.kernels.resized_crop import resized_crop_reference
from fastlabel.kernels.resized_crops import (
    normalisation_table,
    normalised_crops,
    resized_crops,
    resized_crops_reference,
    sample_inputs,
)
from fastlabel.kernels.resized_crops.geometry import pack
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, ModelSpec

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def batches(draw: st.DrawFn, largest: int, size: int, images: int, views: int) -> Arguments:
    """Images of random sizes in any order in the buffer, and boxes: inside, at an edge, or copied from half outside."""
    size = draw(st.integers(1, size))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = [
        (draw(st.integers(1, largest)), draw(st.integers(1, largest))) for _ in range(draw(st.integers(1, images)))
    ]
    V = draw(st.integers(1, views))
    boxes = np.zeros((len(shapes), V, 5), np.int32)
    for b, (H, W) in enumerate(shapes):
        for v in range(V):
            if draw(st.integers(0, 3)) == 0:
                boxes[b, v, :4] = *random.integers(-size, H + 1, 1), *random.integers(-size, W + 1, 1), size, size
            else:
                h, w = draw(st.integers(1, H)), draw(st.integers(1, W))
                boxes[b, v, :4] = draw(st.sampled_from([0, H - h])), draw(st.sampled_from([0, W - w])), h, w
            boxes[b, v, 4] = draw(st.integers(0, 1))
    order = random.permutation(len(shapes))
    offsets, end = np.zeros(len(shapes), np.int64), 0
    for b in order:
        offsets[b] = end = end + int(random.integers(0, 9))
        end += 3 * shapes[b][0] * shapes[b][1]
    extreme = draw(st.booleans())
    pixels = random.integers(0, 2, end) * 255 if extreme else random.integers(0, 256, end)
    heights, widths = np.array(shapes, np.int32).T.copy()
    tensors = (torch.from_numpy(values) for values in (pixels.astype(np.uint8), offsets, heights, widths, boxes))
    return (*tensors, size)  # type: ignore[return-value]


def on_triton(arguments: Arguments, device: str, table: Tensor | None = None) -> Tensor:
    """What the kernels write over garbage: [B * V, S, S, 3]."""
    from fastlabel.kernels.resized_crops.triton import resized_crops_triton

    pixels, offsets, heights, widths, boxes, size = arguments
    dtype = torch.uint8 if table is None else table.dtype
    out = torch.full((boxes.shape[0] * boxes.shape[1], size, size, 3), 77, device=device).to(dtype)
    geometry = pack(offsets, heights, widths, boxes).to(device)
    largest = int(boxes[..., 2:4].max()) if boxes.numel() else 1
    table = None if table is None else table.to(device)
    resized_crops_triton(pixels.to(device), geometry, largest, table, out)
    return out.cpu()


@pytest.mark.parametrize("number", range(len(sample_inputs())))
def test_reference_is_that_of_each_crop(number: int) -> None:
    pixels, offsets, heights, widths, boxes, size = arguments = sample_inputs()[number]
    crops = resized_crops_reference(*arguments)
    assert crops.shape == (*boxes.shape[:2], size, size, 3) and crops.dtype == torch.uint8
    for b, (start, H, W) in enumerate(zip(offsets.tolist(), heights.tolist(), widths.tolist(), strict=True)):
        image = pixels[start : start + 3 * H * W].view(H, W, 3).numpy()
        for v, box in enumerate(boxes[b].tolist()):
            np.testing.assert_array_equal(crops[b, v].numpy(), resized_crop_reference(image, box, size))


@settings(deadline=None, max_examples=100)
@given(arguments=batches(largest=60, size=40, images=5, views=4))
def test_cpu_equals_the_reference(arguments: Arguments) -> None:
    assert torch.equal(resized_crops(*arguments), resized_crops_reference(*arguments))


# Interpreted, a crop takes some 0.1 s.
@pytest.mark.slow
@pytest.mark.triton
@settings(deadline=None, max_examples=15)
@given(arguments=batches(largest=12, size=35, images=2, views=2))
def test_triton_equals_the_reference(triton_device: str, arguments: Arguments) -> None:
    assert torch.equal(on_triton(arguments, triton_device), resized_crops_reference(*arguments).flatten(0, 1))


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(sample_inputs())))
def test_triton_equals_the_reference_on_the_samples(triton_device: str, number: int) -> None:
    arguments = sample_inputs()[number]
    assert torch.equal(on_triton(arguments, triton_device), resized_crops_reference(*arguments).flatten(0, 1))


@pytest.mark.slow
@pytest.mark.triton
def test_triton_takes_sizes_beyond_one_block(triton_device: str) -> None:
    """130 outputs of an axis are two programs of weights; the tiles of a crop then end in the middle of it."""
    pixels, image = torch.arange(3 * 6, dtype=torch.uint8), torch.tensor([0])
    sides = torch.tensor([2], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    boxes = torch.tensor([[[0, 1, 2, 2, 1]]], dtype=torch.int32)
    arguments = (pixels, image, *sides, boxes, 130)
    assert torch.equal(on_triton(arguments, triton_device), resized_crops_reference(*arguments)[0])


@pytest.mark.slow
@pytest.mark.triton
def test_triton_reads_black_outside_of_an_image(triton_device: str) -> None:
    """As the reference does, although the op refuses it: nothing beyond the image is read, whatever the box."""
    pixels, offsets, heights, widths, boxes, size = sample_inputs()[0]
    boxes = boxes[:, :1] + torch.tensor([-2, -3, 4, 9, 0], dtype=torch.int32)
    arguments = (pixels, offsets, heights, widths, boxes, size)
    with pytest.raises(ValueError, match="leaves its 29x33 pixels"):
        resized_crops(*arguments)
    assert torch.equal(on_triton(arguments, triton_device), resized_crops_reference(*arguments)[:, 0])


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalised_crops_are_what_a_model_computes(triton_device: str, dtype: torch.dtype) -> None:
    """To the bit, as convert, normalise and cast; on the CPU by the op, and by the Triton kernel."""
    arguments = sample_inputs()[1]
    crops = resized_crops_reference(*arguments).flatten(0, 1).permute(0, 3, 1, 2)
    model = Classifier(ModelSpec("convnet-d1-w8", 2, arguments[-1]), net=torch.nn.Identity())
    wanted = model(crops).to(dtype)
    table = normalisation_table(IMAGENET_MEAN, IMAGENET_STD, dtype)
    found = normalised_crops(*arguments, table)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == dtype and torch.equal(found, wanted)
    assert torch.equal(on_triton(arguments, triton_device, table).permute(0, 3, 1, 2), wanted)


def test_the_table_is_the_model_at_every_value() -> None:
    mean, std = (0.4914, 0.1, 0.0), (0.2, 1.0, 0.3333)
    model = Classifier(ModelSpec("convnet-d1-w8", 2, 16, mean, std), net=torch.nn.Identity())
    values = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    wanted = model(values).permute(0, 2, 3, 1).reshape(256, 3)
    assert torch.equal(normalisation_table(mean, std, torch.float32), wanted)


def test_autocast_networks_give_the_same_logits() -> None:
    """A network that begins with a convolution casts its input to bfloat16 anyway: the crops may be that already."""
    arguments = sample_inputs()[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelSpec("convnet-d1-w8", 5, arguments[-1])).eval()
    crops = resized_crops(*arguments).flatten(0, 1).permute(0, 3, 1, 2)
    table = normalisation_table(model.spec.mean, model.spec.std, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.net(normalised_crops(*arguments, table)), model(crops))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 4])
def test_opcheck(number: int) -> None:
    arguments = sample_inputs()[number]
    torch.library.opcheck(torch.ops.fastlabel.resized_crops.default, arguments)
    table = normalisation_table(IMAGENET_MEAN, IMAGENET_STD, torch.bfloat16)
    torch.library.opcheck(torch.ops.fastlabel.normalised_crops.default, (*arguments, table))


def test_fake_tensors_have_shapes_and_device() -> None:
    _, offsets, heights, widths, boxes, size = sample_inputs()[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty(10**6, dtype=torch.uint8, device="cuda")
        crops = resized_crops(pixels, offsets, heights, widths, boxes, size)
        table = torch.empty(256, 3, dtype=torch.float16, device="cuda")
        normalised = normalised_crops(pixels, offsets, heights, widths, boxes, size, table)
    assert (crops.shape, crops.dtype, crops.device.type) == ((4, 4, 17, 17, 3), torch.uint8, "cuda")
    assert (normalised.shape, normalised.dtype, normalised.device.type) == ((16, 3, 17, 17), torch.float16, "cuda")


def change(number: int, value: Any) -> Arguments:
    arguments: list[Any] = list(sample_inputs()[0])
    arguments[number] = value(arguments[number])
    return tuple(arguments)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (change(0, lambda pixels: pixels.float()), r"pixels are torch.float32 \(\d+,\), expected one vector"),
        (change(0, lambda pixels: pixels[None]), "expected one vector"),
        (change(0, lambda pixels: pixels[:-3]), "image 3 of 17x17 pixels at byte .* is not in a buffer of"),
        (change(1, lambda offsets: offsets.int()), "offsets are torch.int32, expected torch.int64"),
        (change(1, lambda offsets: offsets - 6), "image 0 of 29x33 pixels at byte -1"),
        (change(2, lambda heights: heights[:3]), r"heights \(3,\)"),
        (change(2, lambda heights: 0 * heights), "image 0 of 0x33 pixels"),
        (change(3, lambda widths: widths.long()), "widths are torch.int64, expected torch.int32"),
        (change(4, lambda boxes: boxes[0]), r"boxes \(4, 5\); expected \[B\] of each image, and boxes \[B, V, 5\]"),
        (change(4, lambda boxes: boxes[:, :, :4]), r"boxes \(4, 4, 4\)"),
        (change(4, lambda boxes: boxes.to("meta")), "boxes are on meta: keep them on the CPU"),
        (change(4, lambda boxes: boxes + 1), r"box \[1, 1, 30, 34, 1\] of image 0 leaves its 29x33 pixels"),
        (change(4, lambda boxes: 0 * boxes), r"box \[0, 0, 0, 0, 0\] of image 0 leaves"),
        (change(5, lambda size: 0), "size is 0"),
    ],
)
def test_refusals(arguments: Arguments, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        resized_crops(*arguments)


def test_a_table_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"the table is \(3, 256\) on cpu, expected \(256, 3\)"):
        normalised_crops(*sample_inputs()[0], torch.zeros(3, 256))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_gpus(capability: int) -> None:
    """What the interpreter takes, the compiler need not."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "error", "-m", "tests.kernels.compile_crops", str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0 and done.stdout == "compiled\n", done.stderr


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bytes() -> None:
    for arguments in sample_inputs():
        on_gpu = (arguments[0].cuda(), *arguments[1:])
        crops = resized_crops(*on_gpu)
        assert crops.is_cuda and torch.equal(crops.cpu(), resized_crops_reference(*arguments))
        torch.library.opcheck(torch.ops.fastlabel.resized_crops.default, on_gpu)
        model = Classifier(ModelSpec("convnet-d1-w8", 2, arguments[-1]), net=torch.nn.Identity()).cuda()
        for dtype in DTYPES:
            table = normalisation_table(model.spec.mean, model.spec.std, dtype, "cuda")
            wanted = model(crops.flatten(0, 1).permute(0, 3, 1, 2)).to(dtype)
            found = normalised_crops(*on_gpu, table)
            assert torch.equal(found, wanted) and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@settings(deadline=None, max_examples=100)
@given(arguments=batches(largest=300, size=230, images=9, views=8))
def test_a_gpu_gives_the_same_bytes_for_anything(arguments: Arguments) -> None:
    wanted = resized_crops(*arguments)
    assert torch.equal(resized_crops(arguments[0].cuda(), *arguments[1:]).cpu(), wanted)


@pytest.mark.gpu
def test_photos_of_a_student_on_a_gpu() -> None:
    """Eight views of 64 images at 500 pixels, the sizes that matter."""
    random = np.random.default_rng(0)
    shapes = [(500, int(random.integers(333, 501))) for _ in range(64)]
    nbytes = np.array([3 * h * w for h, w in shapes])
    boxes = np.zeros((64, 8, 5), np.int32)
    for b, (h, w) in enumerate(shapes):
        for v in range(8):
            height, width = random.integers(50, h + 1), random.integers(50, w + 1)
            top, left = random.integers(0, h - height + 1), random.integers(0, w - width + 1)
            boxes[b, v] = top, left, height, width, random.integers(2)
    pixels = torch.from_numpy(random.integers(0, 256, nbytes.sum(), dtype=np.uint8))
    heights, widths = np.array(shapes, np.int32).T.copy()
    offsets = torch.from_numpy(np.cumsum(nbytes) - nbytes)
    geometry = (offsets, torch.from_numpy(heights), torch.from_numpy(widths), torch.from_numpy(boxes), 224)
    assert torch.equal(resized_crops(pixels.cuda(), *geometry).cpu(), resized_crops(pixels, *geometry))
