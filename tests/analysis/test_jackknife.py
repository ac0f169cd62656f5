"""Intervals of statistics of pairs: inside their range, and holding the true value as often as said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmerank.analysis.metrics.cka import cka_without_each
from mmerank.analysis.metrics.mutual_knn import knn_without_each
from mmerank.analysis.statistics.jackknife import jackknife_limits
from mmerank.formulas.similarity import linear_cka, mutual_knn

_T = 2.570581835636314  # of 5 degrees of freedom, both tails 5 %


def test_between_two_bounds_it_is_on_fishers_scale() -> None:
    """Of a correlation, z = arctanh r with the standard error times dz / dr = 1 / (1 - r²)."""
    without = np.array([[0.6, 0.9], [0.7, 0.8], [0.9, 0.85], [0.8, 0.7], [0.75, 0.95], [0.5, 0.9]])
    values = np.array([0.8, 0.95])
    error = np.sqrt(5 / 6 * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    z, reach = np.arctanh(values), _T * error / (1 - values**2)
    low, high = jackknife_limits(values, without, level=0.95, bounds=(-1, 1))
    assert low == pytest.approx(np.tanh(z - reach)) and high == pytest.approx(np.tanh(z + reach))
    # Of a share r = 2 s - 1 has the same limits.
    shares = jackknife_limits((values + 1) / 2, (without + 1) / 2, level=0.95, bounds=(0, 1))
    assert 2 * shares[0] - 1 == pytest.approx(low) and 2 * shares[1] - 1 == pytest.approx(high)


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (1.0, (0.0, 1.0), (1 - _T * 0.5, 1.0)),  # at a bound, where the scale is infinite
        (0.5, (0.0, math.inf), (0.0, 0.5 + _T * 0.5)),  # with one bound
        (0.5, (-math.inf, math.inf), (0.5 - _T * 0.5, 0.5 + _T * 0.5)),
    ],
)
def test_elsewhere_it_is_cut_off(value: float, bounds: tuple[float, float], expected: tuple[float, float]) -> None:
    without = math.sqrt(0.05) * np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])  # whose error is 0.5
    low, high = jackknife_limits(np.array([value]), without, level=0.95, bounds=bounds)
    assert (low[0], high[0]) == pytest.approx((max(expected[0], bounds[0]), expected[1]))


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 20])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("of", ["cka", "knn"])
def test_intervals_hold_the_true_value(n: int, noise: float, of: str) -> None:
    """In 600 simulations, each true value being the mean over them: 95 % less two Monte-Carlo standard errors."""
    generator = np.random.default_rng(0)
    scale = 1 / np.arange(1, 9)
    found = []
    for _ in range(600):
        shared, *own = generator.normal(size=(3, n, 8)) * scale
        x, y = (shared + noise * one for one in own)
        k = max(1, n // 10)
        if of == "cka":
            value, without = linear_cka(x, y), cka_without_each(x, y)
        else:
            value, without = mutual_knn(x, y, k), knn_without_each(x, y, k)
        low, high = jackknife_limits(np.array([value]), without[:, None], level=0.95, bounds=(0, 1))
        assert 0 <= low[0] <= value <= high[0] <= 1
        found.append((value, low[0], high[0]))
    values, lows, highs = np.array(found).T
    assert ((lows <= values.mean()) & (values.mean() <= highs)).mean() > 0.93
