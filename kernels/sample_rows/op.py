"""sample_rows: Numba for contiguous tensors on the CPU, else the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.sample_rows.reference import sample_rows_reference


def sample_rows(ids_B: Tensor, rows_N: Tensor | None, num_samples: int) -> tuple[Tensor, int, int, int]:
    """As `sample_rows_reference` defines."""
    if not _is_plain(ids_B) or not len(ids_B) or not (rows_N is None or _is_plain(rows_N)):
        return sample_rows_reference(ids_B, rows_N, num_samples)
    from fastlabel.kernels.sample_rows import numba

    if rows_N is None:
        return ids_B, *numba.extent(ids_B.numpy()), -1
    rows_B = torch.empty_like(ids_B)
    return rows_B, *numba.rows_and_extent(ids_B.numpy(), rows_N.numpy(), rows_B.numpy())


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has memory that Numba can read: those of a trace have none."""
    return type(tensor) is Tensor and tensor.is_cpu and tensor.is_contiguous()
