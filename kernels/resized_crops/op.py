"""resized_crops and normalised_crops: every view of a batch of whole images; torch.library picks the backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastlabel.kernels.resized_crops.geometry import check_geometry, check_values, pack
from fastlabel.kernels.resized_crops.reference import resized_crops_reference


def resized_crops(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> Tensor:
    """V crops of each of B whole images: uint8 [B, V, size, size, 3], the same bytes on every device.

    Args:
        pixels_P: uint8, the RGB rows of all images, on any device.
        offsets_B: int64, byte at which each image begins there. This and all that follows is on the CPU.
        heights_B, widths_B: int32, pixels of each image.
        boxes_BV5: int32, top, left, height, width and flip of each view. A box of size x size is copied, and black
            where it leaves the image; others are resized and must lie inside.
        size: side of a crop in pixels.

    Raises:
        TypeError, ValueError: dtypes, shapes or devices that do not fit together; an image that leaves the buffer, a
            box that cannot be read.
    """
    check_geometry(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    crops: Tensor = _resized_crops(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    return crops


def normalised_crops(
    pixels_P: Tensor,
    offsets_B: Tensor,
    heights_B: Tensor,
    widths_B: Tensor,
    boxes_BV5: Tensor,
    size: int,
    table_256x3: Tensor,
) -> Tensor:
    """The same crops as a network takes them: [B * V, 3, size, size] of the table's type, channels last in memory.

    Each value of each channel is replaced by its entry in the table, of ``normalisation_table`` for instance: what
    converting, normalising and casting the crops of ``resized_crops`` gives, to the bit. Raises as that does.
    """
    check_geometry(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    if tuple(table_256x3.shape) != (256, 3) or table_256x3.device != pixels_P.device:
        raise ValueError(
            f"the table is {tuple(table_256x3.shape)} on {table_256x3.device}, expected (256, 3) on {pixels_P.device}"
        )
    crops: Tensor = _normalised_crops(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size, table_256x3)
    return crops


def normalisation_table(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """What (value / 255 - mean) / std gives for each value and channel: [256, 3].

    Computed as models do, in float32 on that device, then cast: CUDA and the CPU may differ in the last bit, but
    neither from a model there.
    """
    values = torch.arange(256, device=device).to(torch.uint8).view(1, 1, 256, 1).expand(1, 3, 256, 1)
    means, stds = (torch.tensor(list(rows), dtype=torch.float32, device=device).view(3, 1, 1) for rows in (mean, std))
    return ((values.float() / 255 - means) / stds)[0, :, :, 0].T.to(dtype).contiguous()


def sample_inputs(device: torch.device | str = "cpu") -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]]:
    """Arguments of ``resized_crops`` for tests: ragged images with gaps between them, odd sizes, copies, flips."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(29, 33), (3, 41), (1, 1), (17, 17)]
    sizes = torch.tensor(shapes, dtype=torch.int32)
    nbytes = 3 * sizes.prod(1).to(torch.int64)
    offsets = nbytes.cumsum(0) - nbytes + torch.tensor([5, 5, 8, 11])
    pixels = torch.randint(0, 256, (int(offsets[-1] + nbytes[-1]) + 2,), dtype=torch.uint8, generator=generator)
    whole = torch.tensor([[0, 0, h, w, f] for h, w in shapes for f in (0, 1)], dtype=torch.int32).view(4, 2, 5)
    part = whole.clone()
    part[:, :, :2], part[:, :, 2:4] = (whole[:, :, 2:4] - 1) // 2, (whole[:, :, 2:4] + 1) // 2
    copied = torch.tensor([[-3, 2, 17, 17, 0], [20, -16, 17, 17, 1], [0, 0, 17, 17, 1]], dtype=torch.int32)
    images = (pixels.to(device), offsets, *sizes.T.contiguous())
    none = (pixels.to(device), offsets[:0], sizes[:0, 0], sizes[:0, 1], whole[:0])
    return [
        (*images, torch.cat([whole, part], 1), 17),
        (*images, copied.expand(4, 3, 5).contiguous(), 17),
        (*images, part[:, :1].contiguous(), 41),
        (*images, whole[:, :1].contiguous(), 1),
        (*none, 17),
    ]


# On devices without a kernel of their own, the reference.
_resized_crops = torch.library.custom_op("fastlabel::resized_crops", resized_crops_reference, mutates_args=())


@_resized_crops.register_fake
def _empty_crops(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> Tensor:
    return pixels_P.new_empty(*boxes_BV5.shape[:2], size, size, 3)


@_resized_crops.register_kernel("cpu")
def _on_cpu(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> Tensor:
    from fastlabel.kernels.resized_crops.numba import resized_crops_numba

    check_values(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    out = _empty_crops(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    tensors = (pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, out)
    resized_crops_numba(*(tensor.contiguous().numpy() for tensor in tensors))
    return out


@_resized_crops.register_kernel("cuda")
def _on_cuda(
    pixels_P: Tensor, offsets_B: Tensor, heights_B: Tensor, widths_B: Tensor, boxes_BV5: Tensor, size: int
) -> Tensor:
    out = _empty_crops(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    _launch(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size, None, out.flatten(0, 1))
    return out


@torch.library.custom_op("fastlabel::normalised_crops", mutates_args=())
def _normalised_crops(
    pixels_P: Tensor,
    offsets_B: Tensor,
    heights_B: Tensor,
    widths_B: Tensor,
    boxes_BV5: Tensor,
    size: int,
    table_256x3: Tensor,
) -> Tensor:
    crops = _resized_crops(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size).flatten(0, 1)
    values = [table_256x3[:, channel].contiguous()[crops[..., channel].int()] for channel in range(3)]
    return torch.stack(values, dim=3).permute(0, 3, 1, 2)


@_normalised_crops.register_fake
def _empty_normalised(
    pixels_P: Tensor,
    offsets_B: Tensor,
    heights_B: Tensor,
    widths_B: Tensor,
    boxes_BV5: Tensor,
    size: int,
    table_256x3: Tensor,
) -> Tensor:
    shape = (boxes_BV5.shape[0] * boxes_BV5.shape[1], size, size, 3)
    return table_256x3.new_empty(shape).permute(0, 3, 1, 2)


@_normalised_crops.register_kernel("cuda")
def _normalised_on_cuda(
    pixels_P: Tensor,
    offsets_B: Tensor,
    heights_B: Tensor,
    widths_B: Tensor,
    boxes_BV5: Tensor,
    size: int,
    table_256x3: Tensor,
) -> Tensor:
    out = _empty_normalised(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size, table_256x3)
    table = table_256x3.contiguous()
    _launch(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size, table, out.permute(0, 2, 3, 1))
    return out


def _launch(
    pixels_P: Tensor,
    offsets_B: Tensor,
    heights_B: Tensor,
    widths_B: Tensor,
    boxes_BV5: Tensor,
    size: int,
    table_256x3: Tensor | None,
    out_NSS3: Tensor,
) -> None:
    """Fill out on CUDA. The geometry goes up in one piece; nothing is waited for."""
    from fastlabel.kernels.resized_crops.triton import resized_crops_triton

    check_values(pixels_P, offsets_B, heights_B, widths_B, boxes_BV5, size)
    if not len(out_NSS3):
        return
    geometry = pack(offsets_B, heights_B, widths_B, boxes_BV5)
    if pixels_P.device.type == "cuda":
        geometry = geometry.pin_memory().to(pixels_P.device, non_blocking=True)
    largest = int(boxes_BV5[:, :, 2:4].max())
    resized_crops_triton(pixels_P.contiguous(), geometry, largest, table_256x3, out_NSS3)
