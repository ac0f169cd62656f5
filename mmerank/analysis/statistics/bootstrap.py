"""Confidence intervals over examples by the bootstrap.

Efron and Tibshirani, An Introduction to the Bootstrap (1993): percentile ch. 13, BCa ch. 14. Davison and Hinkley,
Bootstrap Methods and their Application (1997): basic ch. 5. Hesterberg, What Teachers Should Know About the
Bootstrap, The American Statistician 69 (2015): expanded percentile. docs/statistics.md has the measured coverage.

The arithmetic is that of `scipy.stats.bootstrap(paired=True)`, which this is tested against. scipy gathers every
resampled value, and for BCa leaves each example out of a copy of all others, (n, n - 1): at 23,000 examples 4 GB a
column. Here the numbers are functions of means, so a resample is a vector of counts, and a mean without one example
follows from the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from mmerank.analysis.sample import Floats, PairSample, Sample
from mmerank.analysis.statistics.jackknife import jackknife_limits, without_spread

Method = Literal["expanded", "percentile", "basic", "BCa"]
Interval = tuple[float, float]

# Below this the intervals are said to be rough: so few examples do not show the tails of what they are from.
ROUGH = 20
# Most numbers of a chunk of resamples: 32 MB as float64.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made; stored in every result.

    Attributes:
        level: Of confidence, between 0 and 1.
        resamples: Number of resamples of the examples.
        seed: Of their choice.
        method: `expanded`, `percentile`, `basic` or `BCa` (bias-corrected and accelerated). `expanded` is the
            percentile interval at a level raised so that it is as wide as Student's t and the factor n / (n - 1) of
            the variance ask for; from a few hundred examples on it is the percentile interval.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    method: Method = "expanded"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One of them cannot be.
        """
        if not 0 < self.level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {self.level}")
        if self.resamples < 1:
            raise ValueError(f"resamples: expected at least 1, got {self.resamples}")
        if self.method not in get_args(Method):
            raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {self.method!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


def sample_intervals(chosen: Sample, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    """Confidence intervals of every quantity of a sample; of statistics of pairs by the jackknife.

    Examples are drawn with replacement; one draw serves all measurements and all quantities, so that both ratios are
    taken of the five eRanks of the same examples.

    Args:
        chosen: The examples.
        bootstrap: Level, resamples, seed and method; of statistics of pairs, the level alone counts.

    Returns:
        (low, high) by quantity; without those that cannot be computed: all with fewer than two examples, and
        statistics of pairs that leaving out an example does not move.
    """
    bootstrap = bootstrap or Bootstrap()
    if isinstance(chosen, PairSample):
        low, high = jackknife_limits(*chosen.found, level=bootstrap.level, bounds=chosen.bounds)
        low = np.where(without_spread(chosen.found[1]), np.nan, low)
    else:
        low, high = bootstrap_limits(chosen.columns, chosen.of_means, bootstrap)
    return {
        name: (float(a), float(b))
        for name, a, b in zip(chosen.quantities, low, high, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    }


def bootstrap_limits(
    columns: Floats, of_means: Callable[[Floats], Floats], bootstrap: Bootstrap
) -> tuple[Floats, Floats]:
    """Lower and upper limits of functions of means.

    Args:
        columns: What is averaged, (n, k), a row per example.
        of_means: (..., k) -> (..., q).
        bootstrap: Level, resamples, seed and method.

    Returns:
        Low and high, (q,) each; NaN with fewer than two examples.
    """
    estimates = of_means(columns.mean(axis=0))
    if len(columns) < 2:
        return np.full_like(estimates, np.nan), np.full_like(estimates, np.nan)
    rng = np.random.default_rng(bootstrap.seed)
    drawn = of_means(resampled_means(columns, bootstrap.resamples, rng))
    return limits(drawn, estimates, influence(columns, of_means), len(columns), bootstrap)


def resampled_means(columns: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means over examples drawn with replacement.

    Args:
        columns: (n, k), a row per example.
        resamples: How many draws of n examples.
        rng: What draws.

    Returns:
        (resamples, k).
    """
    n = len(columns)
    # Of deviations: what is the same in every example stays so to the last bit.
    origin = columns[0]
    deviations = columns - origin
    found = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n), dtype=np.int64)
        drawn += n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        found[start : start + rows] = counts.astype(np.float64) @ deviations
    return np.asarray(origin + found / n)


def influence(columns: Floats, of_means: Callable[[Floats], Floats]) -> Floats:
    """How much each example moves a quantity, by the jackknife: U_i / n with U_i = (n - 1) (mean of θ(-j) - θ(-i)).

    The sum of their squares, times n / (n - 1), is the jackknife variance of the quantity (Efron and Tibshirani,
    ch. 11).

    Args:
        columns: (n, k), a row per example; n >= 2.
        of_means: (..., k) -> (..., q).

    Returns:
        (n, q).
    """
    n = len(columns)
    without = of_means((columns.sum(axis=0) - columns) / (n - 1))
    return np.asarray((n - 1) / n * (without.mean(axis=0) - without))


def limits(drawn: Floats, estimates: Floats, effects: Floats, n: int, bootstrap: Bootstrap) -> tuple[Floats, Floats]:
    """Interval limits from resampled values.

    Args:
        drawn: The quantities of each resample, (resamples, q).
        estimates: Those of the examples as they are, (q,).
        effects: From `influence`, (n, q); of several groups, those of all of them. Used by `BCa`.
        n: Number of examples; of several groups, of the smallest. Used by `expanded`.
        bootstrap: Level and method.

    Returns:
        Low and high, (q,) each.
    """
    tail = (1 - bootstrap.level) / 2
    if bootstrap.method == "expanded":
        tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))
    lower, upper = np.full_like(estimates, tail), np.full_like(estimates, 1 - tail)
    if bootstrap.method == "BCa":
        # Resamples that draw each example once are equal to the estimate, but for rounding.
        slack = 1e-12 * np.abs(estimates)
        below = ((drawn < estimates - slack).mean(axis=0) + (drawn <= estimates + slack).mean(axis=0)) / 2
        spread = (effects**2).sum(axis=0) ** 1.5
        skew = (effects**3).sum(axis=0) / 6
        acceleration = np.divide(skew, spread, out=np.zeros_like(skew), where=spread > 0)
        bias = ndtri(below)
        with np.errstate(invalid="ignore"):  # infinite where all resamples are on one side: no interval
            lower, upper = (
                ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (ndtri(tail), ndtri(1 - tail))
            )
    low, high = (
        np.array([_quantile(column, share) for column, share in zip(drawn.T, shares, strict=True)])
        for shares in (lower, upper)
    )
    if bootstrap.method == "basic":
        return 2 * estimates - high, 2 * estimates - low
    return low, high


def _quantile(values: Floats, share: float) -> float:
    """Of the values that exist; NaN where there is none, or no share."""
    values = values[np.isfinite(values)]
    return float(np.quantile(values, share)) if values.size and np.isfinite(share) else math.nan
