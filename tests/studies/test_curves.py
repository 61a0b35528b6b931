from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.studies.curves import PowerLaw, fit_power_law, pareto_front

IPCS = [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 40]


@pytest.mark.parametrize("law", [(0.2, 0.6, 0.5), (0.0, 0.8, 0.2), (0.5, 0.3, 1.4), (0.1, 0.5, 0.05)])
def test_a_power_law_is_recovered_from_exact_points(law):
    floor, scale, exponent = law
    found = fit_power_law(IPCS, [floor + scale * n**-exponent for n in IPCS])
    assert found.rmse < 1e-6
    assert [found.error(n) for n in (1, 5, 100)] == pytest.approx(
        [floor + scale * n**-exponent for n in (1, 5, 100)], abs=2e-3
    )
    if exponent > 0.1:  # flat curves are alike for many laws
        assert (found.floor, found.scale, found.exponent) == pytest.approx(law, abs=2e-3)


def test_the_fit_is_least_squares():
    """No law near by is closer to noisy points."""
    random = np.random.default_rng(3)
    errors = 0.3 + 0.5 * np.array(IPCS, float) ** -0.6 + random.normal(0, 0.02, len(IPCS))
    found = fit_power_law(IPCS, errors)
    least = np.mean([(found.error(n) - e) ** 2 for n, e in zip(IPCS, errors, strict=True)])
    assert found.rmse == pytest.approx(math.sqrt(least))
    for change in random.normal(0, 0.01, (200, 3)):
        law = PowerLaw(found.floor + change[0], found.scale + change[1], found.exponent + change[2], 0)
        assert np.mean([(law.error(n) - e) ** 2 for n, e in zip(IPCS, errors, strict=True)]) >= least - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=8))
def test_any_errors_get_a_law_of_finite_numbers(errors):
    """Also flat, rising and perfect ones."""
    found = fit_power_law(range(1, len(errors) + 1), errors)
    assert all(map(math.isfinite, (found.floor, found.scale, found.exponent, found.rmse)))
    assert found.floor >= 0 and found.scale >= 0 and 0 <= found.exponent <= 3


def test_fewer_than_four_points_have_no_law():
    assert fit_power_law([1, 2, 3], [0.5, 0.4, 0.3]) is None


def test_images_for_an_error():
    law = PowerLaw(0.2, 0.6, 0.5, 0)
    assert law.images_for(law.error(7)) == pytest.approx(7)
    assert law.images_for(0.2) == law.images_for(0.1) == math.inf
    assert PowerLaw(0.2, 0.6, 0.0, 0).images_for(0.5) == math.inf


POINTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_the_front_is_what_brute_force_finds(points):
    front = pareto_front(points)
    for i, one in enumerate(points):
        better = [
            other
            for other in points
            if other != one and other[0] <= one[0] and other[1] <= one[1] and other[2] >= one[2]
        ]
        assert (i in front) == (not better)


@given(POINTS)
def test_every_point_is_matched_by_one_of_the_front(points):
    front = [points[i] for i in pareto_front(points)]
    assert all(any(f[0] <= p[0] and f[1] <= p[1] and f[2] >= p[2] for f in front) for p in points)
