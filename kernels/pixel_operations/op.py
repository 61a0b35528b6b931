"""pixel_operations_: operations on the pixels of crops, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.pixel_operations.reference import COLUMNS, TAPS, pixel_operations_reference


def pixel_operations_(crops_NSS3: Tensor, table_NT: Tensor, kernels_LT: Tensor, fill_3: Tensor) -> Tensor:
    """Change crops in place, as `pixel_operations_reference` defines it: the same bytes on every device.

    Args:
        crops_NSS3: uint8, contiguous, on any device. The rest is on the CPU.
        table_NT: int32 [N, 9 + g * g]. kernels_LT: int32 [L, 7]. fill_3: uint8.

    Raises ValueError for shapes and dtypes that do not fit together. Returns the same tensor.
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
    if not crops_NSS3.numel():
        return crops_NSS3
    if crops_NSS3.device.type != "cpu":
        return crops_NSS3.copy_(pixel_operations_reference(crops_NSS3, table_NT, kernels_LT, fill_3))
    from numba import config

    from fastlabel.kernels.pixel_operations.numba import pixel_operations

    room = torch.empty((config.NUMBA_NUM_THREADS, *shape[1:]), dtype=torch.uint8)
    pixel_operations(*(part.numpy() for part in (crops_NSS3, table_NT, kernels_LT, fill_3, room)))
    return crops_NSS3
