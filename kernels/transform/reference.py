"""The transform of a label in float64 torch operations, on any device: the definition.

Encoding: the logits of a row without their mean, z, less the basis's mean mu, are projected on R orthonormal components
W, and the coefficients become integers q with one step for all: small components become zeros (reverse
water-filling), which cost an entropy coder almost nothing. Rounding leans towards zero (a dead zone): at equal bytes a
finer step then loses less, by a seventh at 32 bytes for 1,000 classes. Decoding: mu + step q W stands for all classes;
the head's are replaced by their own codes, the rest is moved as a whole so that its mass at T = 1 is the stored one.

float64, so that a row's codes depend on nothing else in its batch: its sums differ by 1e-13 where the order of adding
does, and a code moves only if the exact value is as near to a boundary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    ZERO_CODE,
    ZERO_MASS,
    widen,
)

LARGEST_CODE = 127
OFFSETS_PER_NAT, ZERO_OFFSET = 64, 32768  # of a mean logit
ROUND_UP = 0.3  # a coefficient's part of a step that is not below 1 - this goes to the next code away from zero


def finite_centred(logits_BC: Tensor) -> Tensor:
    """Logits as float64 [B, C] without their mean; one of -inf counts as the least finite one of its row."""
    z_BC = _finite(logits_BC)
    return z_BC - z_BC.mean(1, keepdim=True)


def _finite(logits_BC: Tensor) -> Tensor:
    z_BC = logits_BC.detach().to(torch.float64)
    hole_BC = z_BC == -torch.inf
    least_B1 = z_BC.masked_fill(hole_BC, torch.inf).amin(1, keepdim=True)
    return torch.where(hole_BC, least_B1, z_BC)


def encode_offset_reference(logits_BC: Tensor) -> Tensor:
    """Codes uint16 [B] of the mean logit, which `finite_centred` takes away: 1/64 nat, from -512 nats to below 512."""
    codes_B = (_finite(logits_BC).mean(1) * OFFSETS_PER_NAT + 0.5).floor().clamp(-ZERO_OFFSET, ZERO_OFFSET - 1)
    return (codes_B + ZERO_OFFSET).to(torch.int32).to(torch.int16).view(torch.uint16)


def decode_offset_reference(codes_B: Tensor) -> Tensor:
    """Mean logits float32 [B], nats."""
    return (widen(codes_B) - ZERO_OFFSET).to(torch.float32) / OFFSETS_PER_NAT


def encode_transform_reference(logits_BC: Tensor, mean_C: Tensor, components_RC: Tensor, step: float) -> Tensor:
    """Codes int8 [B, R] of the coefficients of logits, both in nats; -127 to 127, 0 below 0.7 steps."""
    coefficients_BR = (finite_centred(logits_BC) - mean_C.double()) @ components_RC.double().T
    steps_BR = (coefficients_BR.abs() / step + ROUND_UP).floor().clamp(max=LARGEST_CODE)
    return (coefficients_BR.sign() * steps_BR).to(torch.int8)


def largest_coefficients(logits_BC: Tensor, mean_C: Tensor, components_RC: Tensor) -> Tensor:
    """The largest absolute coefficient of each row, nats, float64 [B]."""
    return ((finite_centred(logits_BC) - mean_C.double()) @ components_RC.double().T).abs().amax(1)


def decoded_logits_reference(
    classes_BK: Tensor,
    codes_BK: Tensor,
    tail_B2: Tensor,
    coefficients_BR: Tensor,
    mean_C: Tensor,
    components_RC: Tensor,
    step: float,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Logits [B, C] below the top one's, which is 0; -inf is a probability of zero.

    `dtype` is that of the arithmetic and of the result. Class ids must be below C.
    """
    ids_BK = widen(classes_BK).to(torch.int64)
    gaps_BK = (codes_BK.to(dtype) / CODES_PER_NAT).masked_fill(codes_BK == ZERO_CODE, torch.inf)
    z_BC = torch.addmm(mean_C.to(dtype), coefficients_BR.to(dtype), components_RC.to(dtype), alpha=step)
    mass_B = widen(tail_B2)[:, 0]
    log_odds_B = (mass_B - 1).to(dtype) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    z_BC = z_BC.scatter(1, ids_BK, -torch.inf)
    shift_B = log_odds_B + torch.logsumexp(-gaps_BK, 1) - torch.logsumexp(z_BC, 1)
    shift_B = torch.where(mass_B == ZERO_MASS, -torch.inf, shift_B)
    return (z_BC + shift_B[:, None]).scatter(1, ids_BK, -gaps_BK)
