"""encode_topk in torch operations, on any device: the definition that every backend equals, to the byte.

Selection and codes are exact. In the tail, exp is the float32 polynomial of weight.py, which puts the code of the mass
one step off the exact one in fewer than 1 of 10,000 rows (0 of 168,000 tried); sums and logarithms are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.encode_topk.weight import weight
from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LARGEST_MEAN_GAP,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    LOG_ODDS_SPAN,
    SATURATED_CODE,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
    classes_dtype,
)


def _steps(nats: Tensor, per_nat: int, largest: int) -> Tensor:
    """The nearest step (halves up), from 0 to `largest`."""
    return (nats * per_nat + 0.5).floor().clamp(0, largest)


def _encode_tail(kept_BK: Tensor, tail_BR: Tensor) -> Tensor:
    """Codes of the tail's log-odds and mean gap, from logits sorted downwards."""
    if tail_BR.shape[1] == 0:
        codes = torch.tensor([ZERO_MASS, UNDEFINED_MEAN_GAP], device=kept_BK.device)
        return codes.expand(len(kept_BK), 2).to(torch.uint16)
    top_B1, highest_B1 = kept_BK[:, :1], tail_BR[:, :1]
    # Each sum is taken relative to its own largest term, so a tail thousands of nats down does not underflow.
    gap_BR = (highest_B1 - tail_BR).to(torch.float32)
    tail_sum = weight(gap_BR).sum(1, dtype=torch.float64)
    kept_sum = weight((top_B1 - kept_BK).to(torch.float32)).sum(1, dtype=torch.float64)
    drop = top_B1[:, 0].double() - highest_B1[:, 0].double()
    # The logarithms first: equal sums cancel, and the result is as exact as the drop.
    log_odds = (tail_sum.log() - kept_sum.log()) - drop
    mass = 1 + _steps(log_odds + LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, LOG_ODDS_SPAN)
    mass = torch.where(highest_B1[:, 0] == -torch.inf, ZERO_MASS, mass)
    mean = drop + gap_BR.sum(1, dtype=torch.float64) / tail_BR.shape[1]
    mean = torch.where(tail_BR[:, -1] == -torch.inf, UNDEFINED_MEAN_GAP, _steps(mean, CODES_PER_NAT, LARGEST_MEAN_GAP))
    return torch.stack([mass, mean], dim=1).to(torch.int64).to(torch.uint16)


def encode_topk_reference(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encode each row of logits (nats): see `encode_topk`, whose result this defines."""
    C, logits_BC = logits_BC.shape[1], logits_BC.detach()
    if logits_BC.dtype != torch.float64:
        logits_BC = logits_BC.to(torch.float32)
    # Adding 0 turns -0.0 into 0.0, which a sort by bits would put above.
    ordered_BC, order_BC = (logits_BC + 0.0).sort(dim=1, descending=True, stable=True)
    kept_BK, tail_BR = ordered_BC[:, :k], ordered_BC[:, k:]
    codes_BK = _steps(kept_BK[:, :1].double() - kept_BK.double(), CODES_PER_NAT, SATURATED_CODE)
    codes_BK = torch.where(kept_BK == -torch.inf, ZERO_CODE, codes_BK).to(torch.uint8)
    return order_BC[:, :k].to(classes_dtype(C)), codes_BK, _encode_tail(kept_BK, tail_BR)
