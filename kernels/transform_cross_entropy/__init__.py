"""transform_cross_entropy: the loss against labels with a transform, and its gradient, in one pass."""

from fastlabel.kernels.transform_cross_entropy.op import transform_cross_entropy
from fastlabel.kernels.transform_cross_entropy.reference import transform_cross_entropy_reference

__all__ = ["transform_cross_entropy", "transform_cross_entropy_reference"]
