"""Whether one number of an example goes with another: the least-squares slope, and its permutation test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmerank.analysis.sample import Floats, Sample
from mmerank.analysis.statistics.bootstrap import Bootstrap, Interval, sample_intervals

PERMUTATIONS = 9999


@dataclass(frozen=True)
class Slope:
    """How y changes with x.

    Attributes:
        slope: Of the least-squares line, y per x; NaN where x is the same for all.
        interval: By the bootstrap over examples, or None.
        r: Pearson's correlation.
        p: Two-sided, of the permutation test: share of random orders of y whose |slope| is as large or larger.
        n: Number of examples.
    """

    slope: float
    interval: Interval | None
    r: float
    p: float
    n: int


def slope_of(x: Floats, y: Floats, bootstrap: Bootstrap, *, seed: int = 0) -> Slope:
    """The slope of y on x over examples.

    The examples are drawn with replacement for the interval, x and y together, so nothing is assumed of the spread
    about the line.

    Args:
        x: (n,), finite.
        y: Of the same examples, (n,), finite.
        bootstrap: How the interval is made.
        seed: Of the permutations.

    Returns:
        It; NaN and no interval with fewer than three examples, or where one of both is the same for all.
    """
    n = len(x)
    sample = slope_sample({"slope": (x, y)}, [str(i) for i in range(n)])
    found = float(sample.estimates[0])
    if math.isnan(found):
        return Slope(math.nan, None, math.nan, math.nan, n)
    a, b = x - x.mean(), y - y.mean()
    rng = np.random.default_rng(seed)
    reached = sum(
        int((np.abs(rng.permuted(np.broadcast_to(b, (rows, n)), axis=1) @ a) >= abs(a @ b) * (1 - 1e-12)).sum())
        for rows in _chunks(PERMUTATIONS, n)
    )
    r = float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
    return Slope(found, sample_intervals(sample, bootstrap).get("slope"), r, (reached + 1) / (PERMUTATIONS + 1), n)


def slope_sample(pairs: Mapping[str, tuple[Floats, Floats]], examples: Sequence[str]) -> Sample:
    """Slopes of y on x over the same examples, as functions of means.

    Args:
        pairs: x and y of each slope, (n,), finite, by its name.
        examples: Ids, n of them.

    Returns:
        A quantity for each; NaN with fewer than three examples, or where one of both is the same for all.
    """
    columns = []
    for x, y in pairs.values():
        told = len(x) >= 3 and _spread(x) and _spread(y)
        a, b = (of - of.mean() if told else np.zeros(len(x)) for of in (x, y))  # 0 / 0 is no slope
        columns += [a, b, a * b, a * a]

    def of_means(means: Floats) -> Floats:
        u, v, uv, uu = np.moveaxis(means.reshape(*means.shape[:-1], -1, 4), -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one example, too
            return np.asarray((uv - u * v) / (uu - u * u))

    return Sample(tuple(pairs), tuple(examples), np.stack(columns, axis=1), of_means)


def _spread(values: Floats) -> bool:
    return bool(np.ptp(values) > 1e-12 * np.abs(values).max())


def _chunks(count: int, n: int) -> list[int]:
    """Permutations at a time: 32 MB as float64."""
    rows = max(1, 4_000_000 // n)
    return [min(rows, count - start) for start in range(0, count, rows)]
