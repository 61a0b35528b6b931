"""The label of one crop as tensors: constants of the format, and the checks that the ops share.

A batch of labels is `classes_BK` (uint16, or uint32 above 65,536 classes) by descending logit, `codes_BK`
(uint8), the gap of each logit below the top one, and `tail_B2` (uint16): the log-odds of the mass outside the
top K, and the mean gap of the classes there.

Numba's cache does not notice when a constant changes here: these belong to the format, and stay.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

CODES_PER_NAT = 8  # of a gap below the top logit, for `codes` and for the tail's mean gap
SATURATED_CODE = 254  # this gap or more
ZERO_CODE = 255  # probability zero

LOG_ODDS_PER_NAT = 256
LOG_ODDS_OFFSET = 240  # nats: log-odds = (code - 1) / 256 - 240
LOG_ODDS_SPAN = 65534  # codes 1 .. 65535; code 0 says that the mass is exactly zero
ZERO_MASS = 0

LARGEST_MEAN_GAP = 65534
UNDEFINED_MEAN_GAP = 65535

TAIL_MODELS = ("uniform", "renormalise", "zero")  # what becomes of the classes outside the top K: see `decode_topk`


def classes_dtype(num_classes: int) -> torch.dtype:
    """The dtype of class ids: uint16 up to 65,536 classes, uint32 above."""
    return torch.uint16 if num_classes <= 1 << 16 else torch.uint32


def widen(tensor: Tensor) -> Tensor:
    """uint16 as int32, uint32 as int64, anything else as it is: torch has no arithmetic on those."""
    if tensor.dtype == torch.uint16:
        return tensor.view(torch.int16).to(torch.int32) & 0xFFFF
    if tensor.dtype == torch.uint32:
        return tensor.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    return tensor


def signed(tensor: Tensor) -> Tensor:
    """The same bits as signed integers: torch joins, selects and pickles no uint16 and no uint32."""
    if tensor.dtype == torch.uint16:
        return tensor.view(torch.int16)
    return tensor.view(torch.int32) if tensor.dtype == torch.uint32 else tensor


LEAST_STUDENT_TEMPERATURE = 1e-30  # float32 logits divided by less are infinite, and their loss is NaN


def check_temperature(name: str, temperature: float) -> None:
    """Raise ValueError unless the temperature is positive and finite, and a student's at least 1e-30."""
    # Comparisons alone: torch.compile follows them for a temperature that changes from call to call.
    if not sys.float_info.min <= temperature < math.inf:  # of a smaller one the inverse is infinite
        raise ValueError(f"{name} is {temperature}, expected a positive finite number")
    if name == "student_temperature" and temperature < LEAST_STUDENT_TEMPERATURE:
        raise ValueError(f"{name} is {temperature}, expected at least {LEAST_STUDENT_TEMPERATURE}")


def check_codes(codes_BK: Tensor, tail_B2: Tensor, num_classes: int) -> None:
    """Raise TypeError or ValueError unless codes and tail can be of labels over `num_classes`."""
    if codes_BK.dtype != torch.uint8:
        raise TypeError(f"codes have dtype {codes_BK.dtype}, expected torch.uint8")
    if tail_B2.dtype != torch.uint16:
        raise TypeError(f"tail has dtype {tail_B2.dtype}, expected torch.uint16")
    if codes_BK.ndim != 2 or codes_BK.shape[1] < 1:
        raise ValueError(f"codes have shape {tuple(codes_BK.shape)}, expected [B, K] with K of 1 or more")
    if tail_B2.shape != (codes_BK.shape[0], 2):
        raise ValueError(f"tail has shape {tuple(tail_B2.shape)}, expected {(codes_BK.shape[0], 2)}")
    if codes_BK.shape[1] > num_classes:
        raise ValueError(f"labels keep K={codes_BK.shape[1]} classes, more than the {num_classes} there are")
    if codes_BK.device != tail_B2.device:
        raise ValueError(f"codes are on {codes_BK.device} and tail on {tail_B2.device}, expected one device")


def check_labels(classes_BK: Tensor, codes_BK: Tensor, tail_B2: Tensor, num_classes: int) -> None:
    """Raise TypeError or ValueError unless these can be labels over `num_classes`; reads no values."""
    check_codes(codes_BK, tail_B2, num_classes)
    expected = classes_dtype(num_classes)
    if classes_BK.dtype != expected:
        raise TypeError(f"classes have dtype {classes_BK.dtype}, expected {expected} for {num_classes} classes")
    if classes_BK.shape != codes_BK.shape:
        raise ValueError(f"classes have shape {tuple(classes_BK.shape)}, expected {tuple(codes_BK.shape)} as codes")
    if classes_BK.device != codes_BK.device:
        raise ValueError(f"classes are on {classes_BK.device} and codes on {codes_BK.device}, expected one device")


def check_tail_model(name: str, tail_model: str) -> None:
    """Raise ValueError unless it is one of TAIL_MODELS."""
    if tail_model not in TAIL_MODELS:
        raise ValueError(f"{name} is {tail_model!r}, expected one of {', '.join(map(repr, TAIL_MODELS))}")


def check_rows(rows_B: Tensor | None, codes_PK: Tensor) -> None:
    """Raise TypeError or ValueError unless these can be rows of the labels; reads no values."""
    if rows_B is None:
        return
    if rows_B.dtype != torch.int64:
        raise TypeError(f"rows have dtype {rows_B.dtype}, expected torch.int64")
    if rows_B.ndim != 1:
        raise ValueError(f"rows have shape {tuple(rows_B.shape)}, expected [B]")
    if rows_B.device != codes_PK.device:
        raise ValueError(f"rows are on {rows_B.device} and codes on {codes_PK.device}, expected one device")


def take_rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    """Rows of a label tensor; as signed integers, since torch indexes uint16 and uint32 only in part."""
    return signed(tensor)[index].view(tensor.dtype)
