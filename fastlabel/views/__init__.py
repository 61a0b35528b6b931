"""Views: which crop of which image, alone or mixed with that of another one."""

from fastlabel.views.mixing import Mixing
from fastlabel.views.partners import Partners, crop_table, segment_order
from fastlabel.views.policy import (
    ASPECTS,
    KINDS,
    MAX_PARAMETER,
    MAX_SAMPLE,
    MAX_SEED,
    MAX_SIDE,
    MAX_VIEW,
    PARAMETERS,
    ViewPolicy,
)

__all__ = [
    "ASPECTS",
    "KINDS",
    "MAX_PARAMETER",
    "MAX_SAMPLE",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_VIEW",
    "PARAMETERS",
    "Mixing",
    "Partners",
    "ViewPolicy",
    "crop_table",
    "segment_order",
]
