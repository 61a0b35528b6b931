"""soft_cross_entropy: the cross-entropy of logits against stored labels, without a dense target."""

from fastlabel.kernels.soft_cross_entropy.checks import check_options
from fastlabel.kernels.soft_cross_entropy.labels import Labels, Target
from fastlabel.kernels.soft_cross_entropy.op import soft_cross_entropy
from fastlabel.kernels.soft_cross_entropy.reference import soft_cross_entropy_reference

__all__ = ["Labels", "Target", "check_options", "soft_cross_entropy", "soft_cross_entropy_reference"]
