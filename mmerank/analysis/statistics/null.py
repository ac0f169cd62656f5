"""A value against what the same statistic gives where there is nothing to find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class NullTest:
    """Where a value stands among null values.

    Attributes:
        value: The statistic as observed.
        null_mean: Mean of the null values.
        null_sd: Their sample standard deviation; NaN with fewer than two.
        z: (value - null_mean) / null_sd; a description in units of the null's spread, whatever its shape. NaN where
            the spread is 0 or unknown.
        p: Never 0, and never below 1 / (draws + 1) (two-sided: 2 / (draws + 1)).
        draws: Number of null values.
        alternative: `two-sided`, `greater` or `less`.
    """

    value: float
    null_mean: float
    null_sd: float
    z: float
    p: float
    draws: int
    alternative: Alternative

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what does not exist is null."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def null_test(value: float, null: Sequence[float], *, alternative: Alternative = "two-sided") -> NullTest:
    """A statistic against a sample of it under the null hypothesis, as from shuffled pairs.

    p = (b + 1) / (m + 1), where b of m null values are at least as extreme: the observed value is itself one of the
    m + 1 that the null hypothesis allows, and b / m would be 0 too often (Phipson and Smyth, Permutation p-values
    should never be zero, Stat. Appl. Genet. Mol. Biol. 9 (2010), art. 39). Two-sided: twice the smaller of both
    one-sided p, at most 1.

    Args:
        value: The statistic.
        null: The same statistic of draws from the null hypothesis.
        alternative: Which values count as extreme.

    Returns:
        Where the value stands.

    Raises:
        ValueError: There is no null value, a number is not finite, or the alternative is unknown.

    Example:
        >>> null_test(3.0, [0.0, 1.0, 2.0, 1.0], alternative="greater").p
        0.2
    """
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative: expected one of {', '.join(get_args(Alternative))}, got {alternative!r}")
    draws = np.asarray(null, dtype=np.float64)
    if draws.ndim != 1 or not draws.size:
        raise ValueError(f"expected null values, one per draw, got shape {draws.shape}")
    if not (math.isfinite(value) and np.isfinite(draws).all()):
        raise ValueError(
            f"expected finite numbers, got value {value} and {(~np.isfinite(draws)).sum()} bad null values"
        )
    # Equal up to rounding is equal.
    slack = 1e-12 * max(abs(value), float(np.abs(draws).max()))
    above = (1 + int((draws >= value - slack).sum())) / (1 + draws.size)
    below = (1 + int((draws <= value + slack).sum())) / (1 + draws.size)
    p = {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]
    mean = float(draws.mean())
    sd = float(draws.std(ddof=1)) if draws.size > 1 else math.nan
    z = (value - mean) / sd if sd > slack else math.nan
    return NullTest(float(value), mean, sd, z, p, draws.size, alternative)
