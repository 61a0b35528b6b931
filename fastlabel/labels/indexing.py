"""Rows of a batch of labels, as a user gives them: a slice, a tensor, an array or a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastlabel.errors import InputError

Rows = slice | Tensor | np.ndarray | Sequence[int]


def as_index(rows: Rows, count: int, device: torch.device) -> slice | Tensor:
    """Rows of `count` as torch indexes them; NumPy arrays are copied, since torch warns about read-only ones.

    Raises InputError unless they are a slice, or one dimension of integers or booleans; on the CPU also where one is
    not among the `count`. A GPU would have to wait to tell.
    """
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, Tensor):
        index = rows.to(device)
        if index.is_floating_point() or index.is_complex():
            raise InputError(f"rows have dtype {index.dtype}, expected integers or booleans")
    elif isinstance(rows, np.ndarray | Sequence) and not isinstance(rows, str | bytes):
        array = np.asarray(rows, dtype=None if len(rows) else np.int64)
        if array.dtype.kind not in "iub":
            raise InputError(f"rows have dtype {array.dtype}, expected integers or booleans")
        index = torch.tensor(array if array.dtype == np.bool_ else array.astype(np.int64), device=device)
    else:
        raise InputError(
            f"rows are {type(rows).__name__}, expected a slice or an array of rows; labels[i:i + 1] is one"
        )
    if index.ndim != 1:
        raise InputError(f"rows have shape {tuple(index.shape)}, expected one dimension")
    _check_range(index, count)
    return index


def _check_range(index: Tensor, count: int) -> None:
    if index.dtype == torch.bool:
        if len(index) != count:
            raise InputError(f"a mask of {len(index)} rows is given, expected one of the {count} there are")
    elif index.is_cpu and len(index) and not -count <= int(index.min()) <= int(index.max()) < count:
        raise InputError(f"rows {int(index.min())} to {int(index.max())} are given, expected 0 to {count - 1}")
