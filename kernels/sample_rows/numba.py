"""sample_rows on the CPU: one pass over the ids of a batch, which are too few for several threads."""

from __future__ import annotations

import numpy as np

from fastlabel.kernels.numba_cache import cached_njit


@cached_njit(nogil=True, error_model="numpy")
def rows_and_extent(ids, rows, out):
    """Fill `out` int64 [B] from int32 `rows` [N]; return lowest and highest id, and the first place without a row."""
    lowest, highest, missing = ids[0], ids[0], -1
    for b in range(ids.size):
        i = ids[b]
        lowest, highest = min(lowest, i), max(highest, i)
        if 0 <= i < rows.size:
            out[b] = np.int64(rows[i])
            if out[b] < 0 and missing < 0:
                missing = b
        else:
            out[b] = -1
    return lowest, highest, missing


@cached_njit(nogil=True, error_model="numpy")
def extent(ids):
    """The lowest id and the highest."""
    lowest, highest = ids[0], ids[0]
    for b in range(ids.size):
        lowest, highest = min(lowest, ids[b]), max(highest, ids[b])
    return lowest, highest
