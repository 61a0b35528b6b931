"""decode_topk: checks its arguments and picks the backend."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.decode_topk.numba import decode_topk_numba
from fastlabel.kernels.decode_topk.reference import decode_topk_reference
from fastlabel.kernels.label_format import check_labels, check_temperature


def decode_topk(
    classes_BK: Tensor, codes_BK: Tensor, tail_B2: Tensor, num_classes: int, temperature: float = 1.0
) -> Tensor:
    """Dense probabilities of labels made by `encode_topk`, at a temperature chosen now.

    Args:
        classes_BK, codes_BK, tail_B2: labels, as `encode_topk` returns them.
        num_classes: C, the width of the logits that were encoded.
        temperature: the logits are divided by it; positive and finite. At 1 the tail's mass is as stored; at
            another temperature it is estimated from the mass and the mean logit (exact only for K = C).

    Returns:
        float32 [B, C] on the device of the labels; rows sum to 1 within 1e-5.

    Raises:
        TypeError, ValueError: on tensors that are not labels over `num_classes`, or another temperature.
    """
    check_labels(classes_BK, codes_BK, tail_B2, num_classes)
    check_temperature("temperature", temperature)
    if codes_BK.device.type != "cpu":
        return decode_topk_reference(classes_BK, codes_BK, tail_B2, num_classes, temperature)
    probs_BC = torch.empty(codes_BK.shape[0], num_classes, dtype=torch.float32)
    classes, codes, tail = (tensor.contiguous().numpy() for tensor in (classes_BK, codes_BK, tail_B2))
    outside = decode_topk_numba(classes, codes, tail, float(temperature), probs_BC.numpy())
    if outside:
        raise ValueError(f"{outside} class ids are {num_classes} or more; the labels are damaged")
    return probs_BC
