"""Checked entry points to the box kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastlabel.kernels.view_boxes.reference import CENTER, IDENTITY, PAD_CROP, RANDOM_RESIZED_CROP

__all__ = ["CENTER", "IDENTITY", "PAD_CROP", "RANDOM_RESIZED_CROP", "random_keys", "view_boxes"]


def view_boxes(
    kind: int,
    parameters: Sequence[int],
    aspects_q16: Sequence[int],
    size: int,
    seed: int,
    view: int,
    ids: NDArray[np.int64],
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Boxes int32 [B, 5]: top, left, height, width in pixels, and flip. See ``view_box_reference``."""
    if not ids.shape == heights.shape == widths.shape or ids.ndim != 1:
        raise ValueError(
            f"ids, heights and widths must be vectors of one length; got {ids.shape}, {heights.shape}, {widths.shape}"
        )
    from fastlabel.kernels.view_boxes import numba as backend

    out = np.empty((len(ids), 5), np.int32)
    backend.view_boxes(
        kind,
        np.asarray(parameters, np.int64),
        np.asarray(aspects_q16, np.uint32),
        size,
        np.uint64(seed),
        np.uint64(view),
        np.ascontiguousarray(ids, np.int64),
        np.ascontiguousarray(heights, np.int32),
        np.ascontiguousarray(widths, np.int32),
        out,
    )
    return out


def random_keys(seed: int, stream: int, index: int, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One random 64-bit key per id, a pure function of (seed, stream, index, id)."""
    from fastlabel.kernels.view_boxes import numba as backend

    out = np.empty(len(ids), np.uint64)
    backend.random_keys(np.uint64(seed), stream, np.uint64(index), np.ascontiguousarray(ids, np.int64), out)
    return out
