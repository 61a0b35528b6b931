"""What a label must be, whoever wrote it: the rules of docs/format.md that a right digest does not prove.

That classes exist is checked by whoever reads labels (`UnitReader`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.kernels.label_format import (
    CODES_PER_NAT,
    LOG_ODDS_OFFSET,
    LOG_ODDS_PER_NAT,
    SATURATED_CODE,
    UNDEFINED_MEAN_GAP,
    ZERO_CODE,
    ZERO_MASS,
)

# Codes are rounded to 1/8 nat, in the sum over the kept classes too.
TOLERANCE_NATS = 0.25
BELOW_ALL = 255  # as a stored coefficient: -128


def broken_rule(labels: dict[str, NDArray[Any]], num_classes: int, has_offset: bool = False) -> str | None:
    """The first rule that labels break, as a sentence that names a row of them; None where they keep all.

    Args:
        labels: "classes" [n, K], "codes" uint8 [n, K], "tail" uint16 [n, 2] and, of a transform, "coefficients" [n, R].
        num_classes: C of the teacher's labels.
        has_offset: whether the second value of the tail is a mean logit, which can be any.
    """
    classes, codes = labels["classes"], labels["codes"].astype(np.int16)
    mass, gap = labels["tail"].astype(np.int32).T
    gap = np.full_like(gap, UNDEFINED_MEAN_GAP) if has_offset else gap
    last, rest = codes[:, -1], num_classes - codes.shape[1]
    ascending = np.sort(classes, axis=1)
    is_saturated = last >= SATURATED_CODE
    rules = {
        "hold a class twice": (ascending[:, 1:] == ascending[:, :-1]).any(axis=1),
        "give the most probable class a gap": codes[:, 0] != 0,
        "are not in the order of their gaps": (codes[:, 1:] < codes[:, :-1]).any(axis=1),
        "have a tail of no classes": (mass != ZERO_MASS) | (gap != UNDEFINED_MEAN_GAP) if rest == 0 else mass < 0,
        "have a tail of no mass, but with a mean gap": (mass == ZERO_MASS) & (gap != UNDEFINED_MEAN_GAP),
        "have a tail above a class of no probability": (last == ZERO_CODE) & (mass != ZERO_MASS),
        "have a tail whose mean gap is less than that of the last class": gap < np.minimum(last, SATURATED_CODE) - 1,
        "have a tail that is more probable than the last class": ~is_saturated & _is_heavy(codes, mass, last, rest),
    }
    if "coefficients" in labels:
        rules["have a coefficient below -127"] = (labels["coefficients"] == BELOW_ALL).any(axis=1)
    for problem, rows in rules.items():
        if rows.any():
            return f"{problem}, in row {int(rows.argmax())} of the unit: no fastlabel wrote that"
    return None


def _is_heavy(
    codes: NDArray[np.int16], mass: NDArray[np.int32], last: NDArray[np.int16], rest: int
) -> NDArray[np.bool_]:
    """Rows whose mean class outside of the kept ones is more probable than the last kept one."""
    if rest == 0:
        return np.zeros(len(codes), np.bool_)
    kept = np.where(codes == ZERO_CODE, 0, np.exp(-codes / np.float32(CODES_PER_NAT))).sum(axis=1, dtype=np.float64)
    log_odds = (mass - 1) / LOG_ODDS_PER_NAT - LOG_ODDS_OFFSET
    each = log_odds + np.log(np.maximum(kept, np.finfo(np.float64).tiny)) - np.log(rest)
    return (mass != ZERO_MASS) & (each > -last / CODES_PER_NAT + TOLERANCE_NATS)
