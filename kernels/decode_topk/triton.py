"""decode_topk on CUDA: one program for each chunk of a row: first the tail everywhere, then the kept classes over it.

The algebra of a row is that of reference.py, in float64, and done again by each of its chunks: K values.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastlabel.kernels import label_format

MAX_KEPT = 1024
LARGEST_CHUNK = 4096
EXTREME_TEMPERATURE = 1e30  # beyond, or below its inverse, no probability changes, and float32 would overflow

_CODES_PER_NAT, _ZERO_CODE = tl.constexpr(float(label_format.CODES_PER_NAT)), tl.constexpr(label_format.ZERO_CODE)
_PER_NAT = tl.constexpr(float(label_format.LOG_ODDS_PER_NAT))
_OFFSET = tl.constexpr(float(label_format.LOG_ODDS_OFFSET))
_ZERO_MASS, _UNDEFINED = tl.constexpr(label_format.ZERO_MASS), tl.constexpr(label_format.UNDEFINED_MEAN_GAP)
_RENORMALISE, _ZERO = (tl.constexpr(label_format.TAIL_MODELS.index(name)) for name in ("renormalise", "zero"))


@triton.jit
def _tail_log_weight(gaps, kept, mass, mean, rest, temperature):
    """Log-weight of one tail class relative to the top class: the algebra of reference.py, for one row."""
    at_1 = tl.sum(tl.where(kept, tl.exp(-gaps), 0.0))
    lam1 = (mass - 1).to(tl.float64) / _PER_NAT - _OFFSET + tl.log(at_1) - tl.log(rest.to(tl.float64))
    gamma = mean.to(tl.float64) / _CODES_PER_NAT
    delta = lam1 + gamma
    gaussian = (mean != _UNDEFINED) & (delta >= 0.0)
    lam = tl.where(gaussian, (delta / temperature - gamma) / temperature, lam1 / temperature)
    last = tl.max(tl.where(kept, gaps, 0.0))
    lam = tl.where(temperature < 1.0, tl.minimum(lam, tl.maximum(-last, lam1) / temperature), lam)
    return tl.where(temperature == 1.0, lam1, lam)


@triton.jit
def _decode_chunk(
    classes_ptr,
    codes_ptr,
    tail_ptr,
    rows_ptr,
    probs_ptr,
    P,
    K,
    C,
    temperature,
    TAIL_MODEL: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    row = b
    if HAS_ROWS:
        row = tl.load(rows_ptr + b)
    known = (row >= 0) & (row < P)
    row = tl.where(known, row, 0)
    places = tl.arange(0, PLACES)
    here = places < tl.where(known, K, 0)
    classes = tl.load(classes_ptr + row * K + places, mask=here, other=0)
    # Ids are unsigned, and come as the signed integers of their size.
    if classes_ptr.dtype.element_ty == tl.int16:
        classes = classes.to(tl.int64) & 0xFFFF
    else:
        classes = classes.to(tl.int64) & 0xFFFFFFFF
    codes = tl.load(codes_ptr + row * K + places, mask=here, other=0).to(tl.int32)
    mass = tl.load(tail_ptr + 2 * row, mask=known, other=0).to(tl.int32) & 0xFFFF
    mean = tl.load(tail_ptr + 2 * row + 1, mask=known, other=0).to(tl.int32) & 0xFFFF

    kept = (places < K) & (codes != _ZERO_CODE)
    gaps = tl.where(kept, codes.to(tl.float64) / _CODES_PER_NAT, 0.0)
    temperature = tl.full([], temperature, tl.float64)
    weights = tl.where(kept, tl.exp(-gaps / temperature), 0.0)
    tail_weight = tl.full([], 0.0, tl.float64)
    if TAIL_MODEL != _RENORMALISE:
        rest = tl.maximum(C - K, 1)
        lam = _tail_log_weight(gaps, kept, mass, mean, rest, temperature)
        some = (mass != _ZERO_MASS) & (C > K)
        weights = weights * tl.where(some, tl.exp(-tl.maximum(lam, 0.0)), 1.0)
        tail_weight = tl.where(some, tl.exp(tl.minimum(lam, 0.0)), 0.0)
    total = tl.sum(weights) + (C - K) * tail_weight
    # A damaged label, or no such row: NaN, since a device cannot raise.
    total = tl.where(known & (tl.max(classes) < C), total, float("nan"))
    tail_prob = tail_weight / total
    if TAIL_MODEL == _ZERO:
        tail_prob = 0.0 * total

    start = tl.program_id(1) * CHUNK
    columns = start + tl.arange(0, CHUNK)
    fill = tl.zeros([CHUNK], tl.float32) + tail_prob.to(tl.float32)
    tl.store(probs_ptr + b * C + columns, fill, mask=columns < C)
    tl.debug_barrier()  # the kept classes are written over the fill, by other threads
    inside = here & (classes >= start) & (classes < start + CHUNK) & (classes < C)
    tl.store(probs_ptr + b * C + classes, (weights / total).to(tl.float32), mask=inside)


def fits(codes_PK: Tensor) -> bool:
    """Whether the kernel takes these labels: how many classes they keep."""
    return codes_PK.shape[1] <= MAX_KEPT


def decode_topk_triton(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    temperature: float,
    tail_model: int,
    rows_B: Tensor | None,
    probs_BC: Tensor,
) -> None:
    """Write probabilities into `probs_BC`, contiguous float32 [B, C]: see `decode_topk`. CUDA, or Triton's interpreter.

    A row outside of the plane, or a label with a class id of C or more, gives a row of NaN.
    """
    B, C = probs_BC.shape
    if not B:
        return
    P, K = codes_PK.shape
    signed = torch.int16 if classes_PK.dtype == torch.uint16 else torch.int32
    chunk = min(triton.next_power_of_2(C), LARGEST_CHUNK)
    with torch.cuda.device_of(probs_BC):
        _decode_chunk[(B, triton.cdiv(C, chunk))](
            classes_PK.contiguous().view(signed),
            codes_PK.contiguous(),
            tail_P2.contiguous().view(torch.int16),
            probs_BC if rows_B is None else rows_B.contiguous(),
            probs_BC,
            P,
            K,
            C,
            min(max(temperature, 1 / EXTREME_TEMPERATURE), EXTREME_TEMPERATURE),
            TAIL_MODEL=tail_model,
            HAS_ROWS=rows_B is not None,
            PLACES=triton.next_power_of_2(K),
            CHUNK=chunk,
            num_warps=4 if chunk >= 1024 else 1,
            enable_fp_fusion=False,
        )
