"""Crop boxes and flips of deterministic views, from a counter-based random number generator."""

from fastlabel.kernels.view_boxes.op import (
    CENTER,
    IDENTITY,
    PAD_CROP,
    RANDOM_RESIZED_CROP,
    random_keys,
    view_boxes,
)
from fastlabel.kernels.view_boxes.reference import philox4x32, view_box_reference

__all__ = [
    "CENTER",
    "IDENTITY",
    "PAD_CROP",
    "RANDOM_RESIZED_CROP",
    "philox4x32",
    "random_keys",
    "view_box_reference",
    "view_boxes",
]
