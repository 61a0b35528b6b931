"""Operations on the pixels of crops, in place: gray, solarise, blur, colour jitter, shuffled patches, erasing."""

from fastlabel.kernels.pixel_operations.op import pixel_operations_
from fastlabel.kernels.pixel_operations.reference import COLUMNS, KINDS, TAPS, pixel_operations_reference

__all__ = ["COLUMNS", "KINDS", "TAPS", "pixel_operations_", "pixel_operations_reference"]
