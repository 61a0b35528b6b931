"""pixel_operations_: operations on the pixels of crops, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.pixel_operations.reference import (
    BLUR,
    BOTTOM,
    BRIGHTNESS,
    COLUMNS,
    KIND,
    KINDS,
    LEFT,
    LEVEL,
    RIGHT,
    SATURATION,
    TAPS,
    TOP,
    pixel_operations_reference,
)

MAX_FACTOR = 1 << 24  # 256 times as bright; far beyond it the products leave 32 bits


def pixel_operations_(crops_NSS3: Tensor, table_NT: Tensor, kernels_LT: Tensor, fill_3: Tensor) -> Tensor:
    """Change crops in place, as `pixel_operations_reference` defines it: the same bytes on every device.

    Args:
        crops_NSS3: uint8, contiguous, on any device. The rest is on the CPU.
        table_NT: int32 [N, 9 + g * g]. kernels_LT: int32 [L, 7]. fill_3: uint8.

    Raises ValueError for shapes and dtypes that do not fit together, and for values of the table out of range: a kind
    or a blur that is not there, a factor below 0, a patch or a box outside the crop. Returns the same tensor.
    """
    shape = tuple(crops_NSS3.shape)
    if crops_NSS3.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"crops are {crops_NSS3.dtype} {shape}, expected uint8 [N, S, S, 3]")
    if not crops_NSS3.is_contiguous():
        raise ValueError("crops that are changed in place must be contiguous")
    patches = table_NT.shape[1] - len(COLUMNS) if table_NT.ndim == 2 else -1
    grid = round(max(0, patches) ** 0.5)
    if (
        table_NT.dtype != torch.int32
        or len(table_NT) != shape[0]
        or grid * grid != patches
        or (grid and shape[1] % grid)
    ):
        raise ValueError(
            f"the table is {table_NT.dtype} {tuple(table_NT.shape)}, expected int32 [{shape[0]}, 9 + g * g]"
        )
    if kernels_LT.dtype != torch.int32 or kernels_LT.ndim != 2 or kernels_LT.shape[1] != TAPS:
        raise ValueError(f"the weights are {kernels_LT.dtype} {tuple(kernels_LT.shape)}, expected int32 [L, {TAPS}]")
    if fill_3.dtype != torch.uint8 or tuple(fill_3.shape) != (3,):
        raise ValueError(f"the filling is {fill_3.dtype} {tuple(fill_3.shape)}, expected uint8 [3]")
    if not crops_NSS3.numel():
        return crops_NSS3
    _check_values(table_NT, shape[1], len(kernels_LT))
    if crops_NSS3.device.type != "cpu":
        return crops_NSS3.copy_(pixel_operations_reference(crops_NSS3, table_NT, kernels_LT, fill_3))
    from numba import config

    from fastlabel.kernels.pixel_operations.numba import pixel_operations

    room = torch.empty((config.NUMBA_NUM_THREADS, *shape[1:]), dtype=torch.uint8)
    pixel_operations(*(part.numpy() for part in (crops_NSS3, table_NT, kernels_LT, fill_3, room)))
    return crops_NSS3


def _check_values(table_NT: Tensor, size: int, levels: int) -> None:
    """ValueError for the first kind of value that would lead out of the crop or of the weights."""
    blurs = table_NT[table_NT[:, KIND] == BLUR, LEVEL]
    for name, values, last in (
        ("a kind", table_NT[:, KIND], len(KINDS) - 1),
        ("the number of a blur", blurs, levels - 1),
        ("a factor", table_NT[:, BRIGHTNESS : SATURATION + 1], MAX_FACTOR),
        ("the number of a patch", table_NT[:, len(COLUMNS) :], table_NT.shape[1] - len(COLUMNS) - 1),
        ("a side of a box", table_NT[:, TOP : RIGHT + 1], size),
    ):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= last:
            raise ValueError(f"{name} is from {int(values.min())} to {int(values.max())}, expected 0 to {last}")
    if bool(((table_NT[:, TOP] > table_NT[:, BOTTOM]) | (table_NT[:, LEFT] > table_NT[:, RIGHT])).any()):
        raise ValueError("a box ends before it begins")
