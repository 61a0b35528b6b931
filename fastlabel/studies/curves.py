"""Scaling curves of a grid: a power law of the error in the number of images, and the Pareto front of its cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + scale * n ** -exponent; `rmse` of the fit, in shares of 1."""

    floor: float
    scale: float
    exponent: float
    rmse: float

    def error(self, n: float) -> float:
        return self.floor + self.scale * n**-self.exponent

    def images_for(self, error: float) -> float:
        """Images per class at which the curve falls to an error; infinity where it never does."""
        if error <= self.floor or not self.exponent:
            return math.inf
        return float((self.scale / (error - self.floor)) ** (1 / self.exponent))


def fit_power_law(n: Sequence[float], errors: Sequence[float]) -> PowerLaw | None:
    """Least squares over floor >= 0, scale >= 0 and an exponent of 0 to 3; None for fewer than four points."""
    if len(n) < 4:
        return None
    from scipy.optimize import curve_fit

    x, y = np.asarray(n, float), np.asarray(errors, float)

    def law(x: np.ndarray, floor: float, scale: float, exponent: float) -> np.ndarray:
        return floor + scale * x**-exponent

    start = (0.5 * y.min(), max(y.max() - 0.5 * y.min(), 1e-3), 0.5)
    found, _ = curve_fit(law, x, y, p0=start, bounds=([0, 0, 0], [1, 2, 3]), maxfev=20000)
    rmse = float(np.sqrt(np.mean((law(x, *found) - y) ** 2)))
    floor, scale, exponent = (float(value) for value in found)
    return PowerLaw(floor, scale, exponent, rmse)


def pareto_front(points: Sequence[tuple[float, float, float]]) -> list[int]:
    """Indices of the (images, knowledge, accuracy) that no other beats: with no more of either, as accurate or more so.

    Equal points are all on it.
    """
    front = []
    for i, (images, knowledge, accuracy) in enumerate(points):
        beaten = any(
            n <= images and k <= knowledge and a >= accuracy and (n, k, a) != (images, knowledge, accuracy)
            for n, k, a in points
        )
        if not beaten:
            front.append(i)
    return front
