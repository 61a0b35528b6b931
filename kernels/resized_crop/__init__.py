"""Crop, antialiased bilinear resize and flip of uint8 images, in integer arithmetic."""

from fastlabel.kernels.resized_crop.batch import (
    normalisation_table,
    normalised_crops,
    resized_crops,
    sample_inputs,
)
from fastlabel.kernels.resized_crop.geometry import bad_boxes
from fastlabel.kernels.resized_crop.op import resized_crop
from fastlabel.kernels.resized_crop.reference import (
    axis_weights_reference,
    resized_crop_reference,
    resized_crops_reference,
)

__all__ = [
    "axis_weights_reference",
    "bad_boxes",
    "normalisation_table",
    "normalised_crops",
    "resized_crop",
    "resized_crop_reference",
    "resized_crops",
    "resized_crops_reference",
    "sample_inputs",
]
