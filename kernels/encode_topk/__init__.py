"""encode_topk: logits to the top K classes, the codes of their gaps, and a summary of the tail."""

from fastlabel.kernels.encode_topk.op import encode_topk
from fastlabel.kernels.encode_topk.reference import encode_topk_reference

__all__ = ["encode_topk", "encode_topk_reference"]
