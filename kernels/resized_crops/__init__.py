"""Every view of a batch of whole images, each with the bytes of `resized_crop`."""

from fastlabel.kernels.resized_crops.geometry import bad_boxes
from fastlabel.kernels.resized_crops.op import normalisation_table, normalised_crops, resized_crops, sample_inputs
from fastlabel.kernels.resized_crops.reference import resized_crops_reference

__all__ = [
    "bad_boxes",
    "normalisation_table",
    "normalised_crops",
    "resized_crops",
    "resized_crops_reference",
    "sample_inputs",
]
