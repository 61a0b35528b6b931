"""encode_topk in float64 torch operations, on any device: the definition that every backend equals."""

from __future__ import annotations

import torch
from torch import Tensor

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
    tail_sum = (tail_BR - highest_B1).exp().sum(1)
    kept_sum = (kept_BK - top_B1).exp().sum(1)
    log_odds = (highest_B1 - top_B1).squeeze(1) + tail_sum.log() - kept_sum.log()
    mass = 1 + _steps(log_odds + LOG_ODDS_OFFSET, LOG_ODDS_PER_NAT, LOG_ODDS_SPAN)
    mass = torch.where(highest_B1.squeeze(1) == -torch.inf, ZERO_MASS, mass)
    mean = _steps((top_B1 - tail_BR).mean(1), CODES_PER_NAT, LARGEST_MEAN_GAP)
    mean = torch.where(tail_BR[:, -1] == -torch.inf, UNDEFINED_MEAN_GAP, mean)
    return torch.stack([mass, mean], dim=1).to(torch.int64).to(torch.uint16)


def encode_topk_reference(logits_BC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encode each row of logits (nats): see `encode_topk`, whose result this defines."""
    ordered_BC, order_BC = logits_BC.detach().to(torch.float64).sort(dim=1, descending=True, stable=True)
    kept_BK, tail_BR = ordered_BC[:, :k], ordered_BC[:, k:]
    codes_BK = _steps(kept_BK[:, :1] - kept_BK, CODES_PER_NAT, SATURATED_CODE)
    codes_BK = torch.where(kept_BK == -torch.inf, ZERO_CODE, codes_BK).to(torch.uint8)
    classes_BK = order_BC[:, :k].to(classes_dtype(logits_BC.shape[1]))
    return classes_BK, codes_BK, _encode_tail(kept_BK, tail_BR)
