"""Hard labels of mixed crops: the class of the partner, and how much of the crop is the sample's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastlabel.views import Partners
from fastlabel.views.mixing import ONE_Q16


def partners_and_shares(
    partners: Partners, views: Sequence[int], ids: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of the crops of each sample under each view, those of a sample beside each other, [n * views]: partner and share.

    The share is that of the sample's own pixels, as CutMix and MixUp weigh their classes: lambda of MixUp, 1 less the
    area of CutMix's box as it was cut off at the border.
    """
    tables = np.stack([partners.table(view, ids) for view in views], axis=1).reshape(-1, 6)
    partner, weight, top, left, bottom, right = tables.T.astype(np.int64)
    area = (bottom - top) * (right - left) / size**2
    return partner, (1 - (1 - weight / ONE_Q16) * area).astype(np.float32)
