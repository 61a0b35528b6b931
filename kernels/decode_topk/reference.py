"""decode_topk in float64 torch operations, on any device: the definition that every backend equals.

Weights are relative to the top class. A kept class of gap g weighs exp(-g / T). The tail is spread evenly:
each of its R classes weighs exp(lam). At T = 1 the stored mass gives lam1 exactly. At another T the tail's
logits are taken as Gaussian, whose log-mean-exp is mean + variance / 2: the mean is -gamma (stored), the
log-mean-exp lam1, so half the variance is delta = lam1 + gamma, and at T the log-mean-exp is -gamma / T +
delta / T^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
    check_codes,
    check_tail_model,
    check_temperature,
    take_rows,
    widen,
)


def _tail_log_weight(gaps_BK: Tensor, tail_B2: Tensor, rest: int, temperature: float) -> Tensor:
    """Log-weight of one tail class relative to the top class (nats), where the tail has mass."""
    tail_B2 = widen(tail_B2)
    log_odds = (tail_B2[:, 0] - 1).to(torch.float64) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    lam1 = log_odds + gaps_BK.neg().exp().sum(1).log() - math.log(rest)
    if temperature == 1:
        return lam1
    gamma = tail_B2[:, 1].to(torch.float64) / CODES_PER_NAT
    delta = lam1 + gamma
    # By Jensen delta >= 0, unless a code saturated or the tail is flat up to rounding.
    gaussian = (tail_B2[:, 1] != UNDEFINED_MEAN_GAP) & (delta >= 0)
    lam = torch.where(gaussian, (delta / temperature - gamma) / temperature, lam1 / temperature)
    if temperature < 1:
        # Cold, a Gaussian's upper end outgrows the kept classes; no tail class lies above the last of them.
        last = gaps_BK.masked_fill(gaps_BK.isinf(), 0).amax(1)
        lam = torch.minimum(lam, torch.maximum(-last, lam1) / temperature)
    return lam


def topk_probabilities(
    codes_BK: Tensor,
    tail_B2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
) -> tuple[Tensor, Tensor]:
    """Probabilities of the kept classes [B, K] and of each single class of the tail [B], float32.

    Raises TypeError or ValueError on codes or tail that are not of `num_classes`, a bad temperature or tail model.
    """
    check_codes(codes_BK, tail_B2, num_classes)
    check_temperature("temperature", temperature)
    check_tail_model("tail_model", tail_model)
    rest = num_classes - codes_BK.shape[1]
    gaps_BK = (codes_BK.to(torch.float64) / CODES_PER_NAT).masked_fill(codes_BK == ZERO_CODE, torch.inf)
    weights_BK = (gaps_BK / -temperature).exp()
    tail_weight_B = torch.zeros_like(weights_BK[:, 0])
    if rest and tail_model != "renormalise":
        lam = _tail_log_weight(gaps_BK, tail_B2, rest, temperature)
        lam = torch.where(widen(tail_B2)[:, 0] == ZERO_MASS, -torch.inf, lam)
        # Rounding can lift a flat tail above the top class; a low temperature would make that overflow.
        weights_BK = weights_BK * lam.clamp(min=0).neg().exp()[:, None]
        tail_weight_B = lam.clamp(max=0).exp()
    total_B = weights_BK.sum(1) + rest * tail_weight_B
    tail_prob_B = tail_weight_B / total_B
    if tail_model == "zero":
        tail_prob_B = torch.zeros_like(tail_prob_B)
    return (weights_BK / total_B[:, None]).to(torch.float32), tail_prob_B.to(torch.float32)


def decode_topk_reference(
    classes_PK: Tensor,
    codes_PK: Tensor,
    tail_P2: Tensor,
    num_classes: int,
    temperature: float = 1.0,
    tail_model: str = "uniform",
    rows_B: Tensor | None = None,
) -> Tensor:
    """Dense probabilities [B, C], float32: see `decode_topk`, whose result this defines, with NaN for its errors.

    Nothing is read or written out of bounds: a row that the plane does not have is NaN, and so is the whole row of
    a label with a class id of `num_classes` or more.
    """
    bad_B = None
    if rows_B is not None:
        if not len(codes_PK):
            return codes_PK.new_full((len(rows_B), num_classes), torch.nan, dtype=torch.float32)
        bad_B = (rows_B < 0) | (rows_B >= len(codes_PK))
        index = rows_B.masked_fill(bad_B, 0)
        classes_PK, codes_PK, tail_P2 = (take_rows(tensor, index) for tensor in (classes_PK, codes_PK, tail_P2))
    probs_BK, tail_prob_B = topk_probabilities(codes_PK, tail_P2, num_classes, temperature, tail_model)
    ids_BK = widen(classes_PK).to(torch.int64)
    outside_BK = ids_BK >= num_classes
    dense_BC = tail_prob_B[:, None].repeat(1, num_classes)
    dense_BC.scatter_(1, ids_BK.masked_fill(outside_BK, 0), probs_BK)
    bad_B = outside_BK.any(1) if bad_B is None else outside_BK.any(1) | bad_B
    return dense_BC.masked_fill_(bad_B[:, None], torch.nan)
