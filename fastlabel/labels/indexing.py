"""Rows of a batch of labels, as a user gives them: a slice, a tensor, an array or a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastlabel.errors import InputError

Rows = slice | Tensor | np.ndarray | Sequence[int]


def as_index(rows: Rows, device: torch.device) -> slice | Tensor:
    """Rows as torch indexes them; NumPy arrays are copied, since torch warns about read-only ones.

    Raises InputError unless they are a slice, or one dimension of integers or booleans.
    """
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, Tensor):
        index = rows.to(device)
    elif isinstance(rows, np.ndarray | Sequence):
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
    return index
