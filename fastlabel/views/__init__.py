"""Views: which crop of which image, alone or mixed with that of another one."""

from fastlabel.views.mixing import Mixing
from fastlabel.views.partners import Partners, StoredPartners, crop_table, segment_order
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
    STORED,
    ViewPolicy,
)
from fastlabel.views.spec import ViewSpec
from fastlabel.views.stored import BOX_COLUMNS, MIX_COLUMNS, StoredCrops

__all__ = [
    "ASPECTS",
    "BOX_COLUMNS",
    "KINDS",
    "MAX_PARAMETER",
    "MAX_SAMPLE",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_VIEW",
    "MIX_COLUMNS",
    "PARAMETERS",
    "STORED",
    "Mixing",
    "Partners",
    "PixelOperations",
    "StoredCrops",
    "StoredPartners",
    "ViewPolicy",
    "ViewSpec",
    "crop_table",
    "segment_order",
]
