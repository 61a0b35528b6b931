"""transform_cross_entropy on the CPU: BLAS multiplies a block of rows with the basis, Numba does the rest in place."""

from __future__ import annotations

import numba as nb
import numpy as np
import torch
from torch import Tensor

from fastlabel.kernels.soft_cross_entropy.cpu import PARTS_PER_THREAD, SMALLEST_PART, _array, _words
from fastlabel.kernels.transform_cross_entropy import numba as kernels
from fastlabel.kernels.transform_cross_entropy.reference import Label

BLOCK = 1 << 21  # numbers of z at once, beyond the gradient, where that cannot hold them
LEAST_ROWS = 64  # of a block: fewer would read the basis too often
_NO_GRADIENT = np.empty((0, 0), np.uint16)


def forward(
    logits_BC: Tensor,
    label: Label,
    temperatures: tuple[float, float],
    kl: bool,
    factor: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Losses float32 [B], and their gradient times a factor, of the logits' dtype: [B, C], or [0, C] if not asked.

    Raises:
        ValueError: a class id is out of range.
    """
    B, C = logits_BC.shape
    loss = torch.empty(B)
    gradient = torch.empty(B if with_gradient else 0, C, dtype=logits_BC.dtype)
    in_place = with_gradient and logits_BC.dtype == torch.float32
    rows = max(1, min(B, max(LEAST_ROWS, BLOCK // C)))
    space = gradient if in_place else torch.empty(rows, C)
    # One matrix product with the mean too, not a product and a sum. Skipping zeros, without BLAS, was tried: it
    # gained a sixth where one coefficient in eight is not zero, and lost a third elsewhere.
    coefficients = torch.nn.functional.pad(label.coefficients.float().mul_(label.step), (1, 0), value=1.0)
    logits, kind = _words(logits_BC)
    parts = _array(label.classes).view(np.uint16), _array(label.codes), _array(label.tail)
    out = _words(gradient)[0] if with_gradient else _NO_GRADIENT
    for start in range(0, B, rows):
        at = slice(start, min(start + rows, B))
        z = space[at] if in_place else space[: at.stop - at.start]
        torch.mm(coefficients[at], label.basis, out=z)
        ranges = max(1, min(len(z), PARTS_PER_THREAD * nb.get_num_threads(), z.numel() // SMALLEST_PART))
        of_rows = (part[at] for part in parts)
        bad = kernels.rows_of_loss(
            logits[at], kind, z.numpy(), *of_rows, temperatures, kl, factor, loss.numpy()[at], out[at], ranges
        )
        if bad:
            raise ValueError(f"a label has a class that is none of the {C}")
    return loss, gradient
