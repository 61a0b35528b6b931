"""Views: which crop of which image, alone or mixed with that of another one."""

from fastlabel.views.mixing import Mixing
from fastlabel.views.partners import Partners, crop_table, segment_order
from fastlabel.views.pixels import PixelOperations
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
from fastlabel.views.spec import ViewSpec

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
    "PixelOperations",
    "ViewPolicy",
    "ViewSpec",
    "crop_table",
    "segment_order",
]
