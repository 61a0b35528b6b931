"""How much of a label the truncation to K classes lost, estimated from what is stored.

A label keeps the top K classes; the other R = C - K get equal shares of the tail's mass m, where the teacher gave them
the shares u_1 ... u_R. So KL(teacher || label) = m KL(u || even), but for the rounding of codes (about 0.0005 nats).
Of u, three things are stored, each as a gap below a logit: the mean, the log-mean-exp, and the last kept logit, which
no tail logit exceeds. With Y >= 0 the gap of a tail logit below that bound, they give

    x = E[Y],    delta = x + ln E[exp(-Y)] = KL(even || u),    and wanted is    KL(u || even) = -E_u[Y] - ln E[exp(-Y)].

Were the tail's logits Gaussian without a bound, both divergences would be equal: half the variance. But the bound cuts
off the upper end, where the mass is, and that estimate is then 5 to 160 % too high. So they are taken as a Gaussian cut
off at the bound, whose two parameters follow from x and delta. The flattest such density is the exponential one, with
delta = x - ln(1 + x); a larger delta (few, low classes) is read as a Gamma density of Y, which continues it.
docs/inspect.md has the errors of this estimate, measured.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.kernels.label_format import CODES_PER_NAT, UNDEFINED_MEAN_GAP, ZERO_CODE, widen
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform import TransformLabels

Floats = NDArray[np.float64]
MEAN_GAPS = np.geomspace(1e-2, 1e3, 240)  # nats
STEPS = 200  # of delta, from 0 to that of the exponential density
GAMMA_RATES = np.geomspace(1e-6, 1e6, 2000)


def truncation_kl(labels: TopKLabels) -> Floats:
    """Estimated KL(teacher || label) of B labels, nats, float64 [B]; NaN where the teacher's tail has zeros."""
    rest = labels.num_classes - labels.k
    if isinstance(labels, TransformLabels):  # its calibration says it: nothing of that is in a label
        return np.full(len(labels), np.nan)
    if rest < 2:  # one class alone has all of the tail's mass: nothing is lost
        return np.zeros(len(labels))
    gap, delta, defined = _tail_gaps(labels)
    mass = rest * _top_and_tail(labels)[1].double().cpu().numpy()
    kl: Floats = mass * np.minimum(tail_kl(np.maximum(gap, 0), np.maximum(delta, 0)), np.log(rest))
    kl[~defined] = np.nan
    return kl


def information_kept(labels: TopKLabels, temperature: float) -> float:
    """Estimated share of KL(teacher || uniform), both at a temperature, that B labels keep; 0 to 1.

    The tail's logits have gaps Y below their bound; a Gamma density of Y with the stored mean x and delta (above) says
    what is left of their differences when they are divided by the temperature. Labels whose tail has zeros do not
    count. On random logits it is within 0.13 of the truth, most often within 0.05.
    """
    rest = labels.num_classes - labels.k
    if rest < 2:
        return 1.0
    probs_BK, each_B = (part.double().cpu().numpy() for part in labels.probabilities(temperature))
    x, delta, defined = _tail_gaps(labels)
    x, delta = np.maximum(x, MEAN_GAPS[0]), np.maximum(delta, 0)
    rate = np.interp(delta / x, _gamma_deltas()[::-1], GAMMA_RATES[::-1])
    lost = x * rate * (np.log1p(1 / (temperature * rate)) - 1 / (temperature * rate + 1))
    lost = rest * each_B * np.minimum(lost, np.log(rest))
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(probs_BK > 0, probs_BK * np.log(probs_BK * labels.num_classes), 0).sum(axis=1)
        kept += np.where(each_B > 0, rest * each_B * np.log(each_B * labels.num_classes), 0)
    if not defined.any():
        return 1.0
    return float(kept[defined].sum() / (kept + lost)[defined].sum())


def _tail_gaps(labels: TopKLabels) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of the tail's logits: mean gap below the last kept one, delta, and whether they are known; [B] each."""
    top, each = (part.double().cpu().numpy() for part in _top_and_tail(labels))
    gap_code = widen(labels.tail.cpu())[:, 1].numpy()
    codes = labels.codes.cpu().numpy()
    mean_gap = gap_code / CODES_PER_NAT
    last_gap = np.where(codes == ZERO_CODE, 0, codes).max(axis=1) / CODES_PER_NAT
    with np.errstate(divide="ignore"):
        delta = np.where(each > 0, mean_gap + np.log(each / top), 0)
    return mean_gap - last_gap, delta, (gap_code != UNDEFINED_MEAN_GAP) | (each == 0)


def _top_and_tail(labels: TopKLabels) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability of the top class, and of each class outside of the kept ones; [B]."""
    probs_BK, tail_B = labels.probabilities()
    return probs_BK[:, 0], tail_B


def tail_kl(mean_gap: Floats, delta: Floats) -> Floats:
    """KL(u || even) of tails, nats, from the mean gap x below the bound and delta = KL(even || u), both 0 or more."""
    table = _gaussian_table()
    x = np.clip(mean_gap, MEAN_GAPS[0], MEAN_GAPS[-1])
    flattest = x - np.log1p(x)
    ratio = delta / flattest
    row = (np.log(x) - np.log(MEAN_GAPS[0])) / np.log(MEAN_GAPS[1] / MEAN_GAPS[0])
    cut = _interpolate(table, row, np.minimum(ratio, 1) * STEPS) * _exponential_kl(x)
    return np.where(ratio <= 1, cut, _gamma_kl(x, delta))


def _exponential_kl(x: Floats) -> Floats:
    return np.log1p(x) - x / (1 + x)


def _gamma_kl(x: Floats, delta: Floats) -> Floats:
    """Where Y has the Gamma density of mean x and rate r: delta / x and KL / x depend on r alone."""
    kls = GAMMA_RATES * (np.log1p(1 / GAMMA_RATES) - 1 / (1 + GAMMA_RATES))
    return x * np.interp(delta / x, _gamma_deltas()[::-1], kls[::-1])


def _gamma_deltas() -> Floats:
    """delta / x of Gamma densities with the rates GAMMA_RATES, falling."""
    deltas: Floats = 1 - GAMMA_RATES * np.log1p(1 / GAMMA_RATES)
    return deltas


@lru_cache(maxsize=1)
def _gaussian_table() -> Floats:
    """KL(u || even) of a cut-off Gaussian over that of the exponential density, [MEAN_GAPS, STEPS + 1]."""
    # The bound in standard deviations above the mean: far above cuts off nothing, far below leaves an exponential.
    bounds = np.concatenate([-np.geomspace(1e4, 1e-2, 600), np.geomspace(1e-2, 37, 400)])
    table = np.empty((len(MEAN_GAPS), STEPS + 1))
    for row, x in zip(table, MEAN_GAPS, strict=True):
        delta, kl = _cut_gaussian(x, bounds)
        ratios = np.concatenate([[0], (delta / (x - np.log1p(x)))[::-1], [1]])
        shares = np.concatenate([[0], (kl / _exponential_kl(x))[::-1], [1]])
        row[:] = np.interp(np.linspace(0, 1, STEPS + 1), ratios, shares)
    return table


def _cut_gaussian(x: float, bound: Floats) -> tuple[Floats, Floats]:
    """(delta, KL) of logits N(mu, sigma^2) below mu + sigma * bound, with sigma such that E[Y] = x."""
    sigma = x / _mean_below(bound)
    log_mean_exp = np.log(_erfcx(sigma - bound) / _erfcx(-bound))
    # Weighted by exp(-Y), it is the same density moved up by sigma^2.
    return x + log_mean_exp, -sigma * _mean_below(bound - sigma) - log_mean_exp


def _mean_below(bound: Floats) -> Floats:
    """Mean distance of a standard normal variable that stays below a bound from that bound."""
    hazard = np.sqrt(2 / np.pi) / _erfcx(-bound)
    far = np.minimum(bound, -20)
    return np.where(bound < -20, -1 / far + 2 / far**3 - 10 / far**5, bound + hazard)


def _erfcx(z: Floats) -> Floats:
    """exp(z^2 / 2) erfc(z / sqrt 2), which neither under- nor overflows for z above -38."""
    values: Floats = torch.special.erfcx(torch.from_numpy(z / np.sqrt(2))).numpy()
    return values


def _interpolate(table: Floats, row: Floats, column: Floats) -> Floats:
    """Bilinear, at fractional rows and columns."""
    i = np.clip(row.astype(np.int64), 0, table.shape[0] - 2)
    j = np.clip(column.astype(np.int64), 0, table.shape[1] - 2)
    a, b = row - i, column - j
    upper = (1 - b) * table[i, j] + b * table[i, j + 1]
    lower = (1 - b) * table[i + 1, j] + b * table[i + 1, j + 1]
    return (1 - a) * upper + a * lower
