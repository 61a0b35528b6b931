"""encode_topk: checks its arguments; torch.library picks the backend."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastlabel.kernels.encode_topk.reference import encode_topk_reference
from fastlabel.kernels.label_format import classes_dtype

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def encode_topk(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encode each row of logits as its top K classes and a summary of the other R = C - K.

    The same bytes on every device. Integers carry no gradient: the logits are detached. float64 logits take the
    reference's path on every device; so do, on CUDA, more than 32,768 classes or 64 kept ones.

    Args:
        logits_BC: nats, float32, float64, bfloat16 or float16. -inf is a probability of zero. A row with NaN,
            +inf or no finite logit has an undefined result.
        k: classes to keep, 1 to C.

    Returns:
        classes_BK: uint16 (uint32 above 65,536 classes), by descending logit, of equal ones the lower first.
        codes_BK: uint8, gap below the top logit in 1/8 nat; 254 is 31.75 nats or more, 255 probability zero.
        tail_B2: uint16, log-odds of the mass outside the top K, 0 for no mass, else (code - 1) / 256 - 240
            nats; and the mean gap there in 1/8 nat, 65535 where it is undefined (R = 0, or a logit of -inf).

    Raises:
        TypeError, ValueError: on another dtype, shape or k.
    """
    if logits_BC.dtype not in _DTYPES:
        raise TypeError(f"logits have dtype {logits_BC.dtype}, expected float32, float64, bfloat16 or float16")
    if logits_BC.ndim != 2:
        raise ValueError(f"logits have shape {tuple(logits_BC.shape)}, expected [B, C]")
    if not 1 <= k <= logits_BC.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to the number of classes, {logits_BC.shape[1]}")
    classes_BK, codes_BK, tail_B2 = _encode_topk(logits_BC.detach(), k)
    return classes_BK, codes_BK, tail_B2


# On devices without a kernel of their own, the reference.
_encode_topk = torch.library.custom_op("fastlabel::encode_topk", encode_topk_reference, mutates_args=())


@_encode_topk.register_fake
def _empty_labels(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    B, C = logits_BC.shape
    return (
        logits_BC.new_empty(B, k, dtype=classes_dtype(C)),
        logits_BC.new_empty(B, k, dtype=torch.uint8),
        logits_BC.new_empty(B, 2, dtype=torch.uint16),
    )


@_encode_topk.register_kernel("cpu")
def _on_cpu(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    from fastlabel.kernels.encode_topk.numba import encode_topk_numba

    if logits_BC.dtype == torch.float64:
        return encode_topk_reference(logits_BC, k)
    classes, codes, tail = labels = _empty_labels(logits_BC, k)
    logits = logits_BC.to(torch.float32).contiguous().numpy()
    encode_topk_numba(logits, classes.numpy().view(np.uint16), codes.numpy(), tail.numpy())
    return labels


@_encode_topk.register_kernel("cuda")
def _on_cuda(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    from fastlabel.kernels.encode_topk.triton import encode_topk_triton, fits

    if not fits(logits_BC, k):
        return encode_topk_reference(logits_BC, k)
    labels = _empty_labels(logits_BC, k)
    encode_topk_triton(logits_BC, *labels)
    return labels
