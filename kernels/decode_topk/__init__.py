"""decode_topk: labels back to probabilities, at any temperature."""

from fastlabel.kernels.decode_topk.op import decode_topk
from fastlabel.kernels.decode_topk.reference import decode_topk_reference, topk_probabilities

__all__ = ["decode_topk", "decode_topk_reference", "topk_probabilities"]
