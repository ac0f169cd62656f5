"""Standard errors and intervals of statistics of pairs of examples, which cannot be resampled.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 11. An example that a bootstrap draws twice is its
own nearest neighbour and has a kernel of 1 with itself, so that resampled values lie above the statistic.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from mmerank.analysis.sample import Bounds, Floats


def jackknife_error(without: Floats) -> Floats:
    """Standard error of statistics by the jackknife.

    Args:
        without: The statistics without each example in turn, (n, q), or without each of n groups of equal size.

    Returns:
        (q,); NaN with fewer than two examples.
    """
    n = len(without)
    if n < 2:
        return np.full(without.shape[1], np.nan)
    return np.asarray(np.sqrt((n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0)))


def jackknife_limits(
    values: Floats, without: Floats, *, level: float, bounds: Bounds = (-math.inf, math.inf)
) -> tuple[Floats, Floats]:
    """Interval limits: the value, and t with n - 1 degrees of freedom times the jackknife's standard error.

    Of a statistic between two bounds this is done on the scale of ln((v - low) / (high - v)), on which it has none,
    with the standard error there by the derivative, and taken back: for -1 and 1 that is Fisher's z. Cressie,
    Transformations and the jackknife, J. R. Stat. Soc. B 43 (1981). At a bound, where that scale is infinite, and
    where there is one bound only, the limits are cut off there.

    Args:
        values: The statistics, (q,).
        without: They without each example in turn, (n, q).
        level: Of confidence.
        bounds: The least and the largest value that they can have, one for all or (q,).

    Returns:
        Low and high, (q,) each; NaN with fewer than two examples.
    """
    n = len(without)
    if n < 2:
        return np.full_like(values, np.nan), np.full_like(values, np.nan)
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * jackknife_error(without)
    least, most = (np.broadcast_to(of, values.shape) for of in bounds)
    low, high = np.maximum(values - reach, least), np.minimum(values + reach, most)
    inside = np.isfinite(least) & np.isfinite(most) & (values > least) & (values < most)
    start, width = least[inside], most[inside] - least[inside]
    share = (values[inside] - start) / width
    apart = reach[inside] / width / (share * (1 - share))
    low[inside], high[inside] = (start + width * expit(logit(share) + of) for of in (-apart, apart))
    return low, high


def without_spread(without: Floats) -> NDArray[np.bool_]:
    """Statistics that leaving out does not move, as a share of 0 or 1: the jackknife says nothing of them.

    Args:
        without: They without each example in turn, (n, q).

    Returns:
        (q,).
    """
    most = np.abs(without).max(axis=0, initial=0.0)
    return np.asarray(np.ptp(without, axis=0) <= 1e-12 * most)
