"""decode_topk: checks its arguments; torch.library picks the backend."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastlabel.kernels.decode_topk.reference import decode_topk_reference
from fastlabel.kernels.label_format import (
    TAIL_MODELS,
    check_labels,
    check_rows,
    check_tail_model,
    check_temperature,
)


def decode_topk(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
    rows_B: Tensor | None = None,
) -> Tensor:
    """Dense probabilities of labels made by `encode_topk`, at a temperature chosen now. Without gradient.

    Args:
        classes_PK, codes_PK, tail_P2: labels, as `encode_topk` returns them.
        num_classes: C, the width of the logits that were encoded.
        temperature: the logits are divided by it; positive and finite. At 1 the tail's mass is as stored; at
            another temperature it is estimated from the mass and the mean logit (exact only for K = C).
        tail_model: what becomes of the C - K classes that were not kept.
            "uniform": each gets an even share of the tail's mass; rows sum to 1 within 1e-5.
            "renormalise": nothing; the kept classes are divided by their sum; rows sum to 1 within 1e-5.
            "zero": nothing; the kept classes stay as they are in the full distribution, and rows sum to less.
        rows_B: int64, the labels to decode, of a plane of P; all in order without it.

    Returns:
        float32 [B, C] on the device of the labels.

    Raises:
        TypeError, ValueError: on tensors that are not labels over `num_classes`, or another argument out of place. On
            the CPU also on rows and class ids out of range; elsewhere those give a row of NaN, since a check would
            have to wait for the device.
    """
    check_labels(classes_PK, codes_PK, tail_P2, num_classes)
    check_temperature("temperature", temperature)
    check_tail_model("tail_model", tail_model)
    check_rows(rows_B, codes_PK)
    probs_BC: Tensor = _decode_topk(classes_PK, codes_PK, tail_P2, num_classes, temperature, tail_model, rows_B)
    return probs_BC


# On devices without a kernel of their own, the reference. The dispatcher drops trailing arguments that equal their
# defaults, so every kernel repeats those.
_decode_topk = torch.library.custom_op("fastlabel::decode_topk", decode_topk_reference, mutates_args=())


@_decode_topk.register_fake
def _empty_probs(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
    rows_B: Tensor | None = None,
) -> Tensor:
    batch = codes_PK if rows_B is None else rows_B
    return codes_PK.new_empty(batch.shape[0], num_classes, dtype=torch.float32)


@_decode_topk.register_kernel("cpu")
def _on_cpu(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
    rows_B: Tensor | None = None,
) -> Tensor:
    from fastlabel.kernels.decode_topk.numba import decode_topk_numba

    words, codes, tail = (tensor.contiguous().numpy() for tensor in (classes_PK, codes_PK, tail_P2))
    rows = np.arange(len(codes)) if rows_B is None else rows_B.contiguous().numpy()
    probs_BC = torch.empty(len(rows), num_classes, dtype=torch.float32)
    bad_classes, bad_rows = decode_topk_numba(
        words.view(np.uint16), codes, tail, rows, float(temperature), TAIL_MODELS.index(tail_model), probs_BC.numpy()
    )
    if bad_rows:
        raise ValueError(f"{bad_rows} rows are outside of the {len(codes)} labels; expected 0 to {len(codes) - 1}")
    if bad_classes:
        raise ValueError(f"{bad_classes} class ids are {num_classes} or more; the labels are damaged")
    return probs_BC


@_decode_topk.register_kernel("cuda")
def _on_cuda(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
    rows_B: Tensor | None = None,
) -> Tensor:
    from fastlabel.kernels.decode_topk.triton import decode_topk_triton, fits

    arguments = (classes_PK, codes_PK, tail_P2, num_classes, temperature, tail_model, rows_B)
    if not fits(codes_PK):
        return decode_topk_reference(*arguments)
    probs_BC = _empty_probs(*arguments)
    decode_topk_triton(classes_PK, codes_PK, tail_P2, temperature, TAIL_MODELS.index(tail_model), rows_B, probs_BC)
    return probs_BC
