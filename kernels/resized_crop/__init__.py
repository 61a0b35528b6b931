"""Crop, antialiased bilinear resize and flip of a uint8 image, in integer arithmetic."""

from fastlabel.kernels.resized_crop.op import resized_crop
from fastlabel.kernels.resized_crop.reference import axis_weights_reference, resized_crop_reference

__all__ = ["axis_weights_reference", "resized_crop", "resized_crop_reference"]
