"""transform_probabilities: labels with a transform as dense probabilities, an op for torch.compile; no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    ZERO_CODE,
    ZERO_MASS,
    check_labels,
    check_temperature,
    widen,
)


def transform_probabilities(
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    coefficients_BR: Tensor,
    mean_C: Tensor,
    components_RC: Tensor,
    step: float,
    temperature: float = 1.0,
) -> Tensor:
    """softmax(logits / temperature) of the logits that `decoded_logits_reference` defines, float32 [B, C].

    Computed in float32 in one buffer [B, C]: R multiplications for each class by BLAS, then a few passes over it.

    Raises:
        TypeError, ValueError: on tensors that do not fit together or a bad temperature; on the CPU also on class ids
            out of range, which elsewhere are undefined.
    """
    check_labels(classes_BK, codes_BK, tail_B2, len(mean_C))
    check_temperature("temperature", temperature)
    if coefficients_BR.dtype != torch.int8 or coefficients_BR.shape != (len(codes_BK), len(components_RC)):
        raise ValueError(
            f"coefficients are {coefficients_BR.dtype} {tuple(coefficients_BR.shape)}, expected int8 "
            f"{(len(codes_BK), len(components_RC))}"
        )
    probs_BC: Tensor = _probabilities(
        classes_BK, codes_BK, tail_B2, coefficients_BR, mean_C, components_RC, float(step), float(temperature)
    )
    return probs_BC


@torch.library.custom_op("fastlabel::transform_probabilities", mutates_args=())
def _probabilities(
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    coefficients_BR: Tensor,
    mean_C: Tensor,
    components_RC: Tensor,
    step: float,
    temperature: float,
) -> Tensor:
    ids_BK = widen(classes_BK).to(torch.int64)
    if classes_BK.device.type == "cpu" and ids_BK.numel() and int(ids_BK.max()) >= len(mean_C):
        raise ValueError(f"a label has a class that is none of the {len(mean_C)}")
    gaps_BK = (codes_BK.float() / CODES_PER_NAT).masked_fill_(codes_BK == ZERO_CODE, torch.inf)
    z_BC = torch.addmm(mean_C, coefficients_BR.float(), components_RC, alpha=step)
    z_BC.scatter_(1, ids_BK, -torch.inf)
    mass_B = widen(tail_B2)[:, 0]
    log_odds_B = (mass_B - 1).float() / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    shift_B = log_odds_B + torch.logsumexp(-gaps_BK, 1) - torch.logsumexp(z_BC, 1)
    z_BC += torch.where(mass_B == ZERO_MASS, -torch.inf, shift_B)[:, None]
    z_BC.scatter_(1, ids_BK, -gaps_BK)
    if temperature < 1:  # would make the largest one infinite
        z_BC -= z_BC.amax(1, keepdim=True)
    if temperature != 1:
        z_BC /= temperature
    return torch.softmax(z_BC, 1)


@_probabilities.register_fake
def _empty(
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    coefficients_BR: Tensor,
    mean_C: Tensor,
    components_RC: Tensor,
    step: float,
    temperature: float,
) -> Tensor:
    return mean_C.new_empty(len(codes_BK), len(mean_C))
