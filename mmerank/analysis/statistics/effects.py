"""How large the differences of pairs are, and how large they would have to be."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats
from scipy.special import stdtrit

from mmerank.analysis.sample import Floats

ALPHA, POWER = 0.05, 0.8  # of `smallest_detectable`


def standardised_mean(differences: Floats) -> float:
    """Mean over sample standard deviation of paired differences, Cohen's d_z.

    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988).

    Args:
        differences: One per pair, (n,).

    Returns:
        The effect size; NaN with fewer than two pairs, or where all differences are equal.

    Example:
        >>> standardised_mean(np.array([1.0, 2.0, 3.0]))
        2.0
    """
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    largest = float(np.abs(differences).max(initial=0))
    return float(differences.mean() / spread) if spread > 1e-9 * largest else math.nan


def standardised_limits(d_z: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a standardised mean of paired differences, by the noncentral t.

    Of normal differences √n d_z has the noncentral t with n - 1 degrees of freedom and noncentrality √n δ; the limits
    are the δ that leave (1 - level) / 2 beyond it to either side. Cumming and Finch, Educational and Psychological
    Measurement 61 (2001).

    Args:
        d_z: Mean over sample standard deviation.
        n: Number of pairs.
        level: Of the interval.

    Returns:
        Low and high; NaN with fewer than two pairs, or where `d_z` is none.

    Example:
        >>> low, high = standardised_limits(0.5, 30)
        >>> round(low, 3), round(high, 3)
        (0.116, 0.876)
    """
    if n < 2 or not math.isfinite(d_z):
        return math.nan, math.nan
    t, freedom = math.sqrt(n) * d_z, n - 1
    reach = 10 * math.sqrt(1 + t**2 / (2 * freedom))  # ten times the spread of t about what it estimates

    def limit(share: float) -> float:
        def left(noncentrality: float) -> float:
            found = float(stats.nct.cdf(t, freedom, noncentrality))
            if math.isnan(found):  # so far in a tail that it is not computed
                found = float(noncentrality < t)
            return found - share

        return float(optimize.brentq(left, t - reach, t + reach)) / math.sqrt(n)

    tail = (1 - level) / 2
    return limit(1 - tail), limit(tail)


def rank_biserial(differences: Floats) -> float:
    """Matched-pairs rank-biserial correlation, (W+ - W-) / (W+ + W-) of the signed ranks of |differences|.

    Kerby, The simple difference formula, Comprehensive Psychology 3 (2014). Differences of 0 do not count.

    Args:
        differences: One per pair, (n,).

    Returns:
        Between -1 and 1; 0 where all differences are 0.

    Example:
        >>> rank_biserial(np.array([1.0, 2.0, -3.0]))
        0.0
    """
    changed = differences[differences != 0]
    if not changed.size:
        return 0.0
    ranks = stats.rankdata(np.abs(changed))
    return float((np.sign(changed) * ranks).sum() / ranks.sum())


def signed_rank_p(differences: Floats) -> float:
    """Two-sided p of the Wilcoxon signed-rank test, by `scipy.stats.wilcoxon`; 1 where all differences are 0.

    Args:
        differences: One per pair, (n,).

    Returns:
        The p-value.
    """
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def smallest_detectable(standard_error: float, n: int) -> float:
    """The difference that a two-sided paired test at 5 % finds with 80 % power: t(0.975) + t(0.8) standard errors.

    Bloom, Minimum detectable effects, Evaluation Review 19 (1995); t with n - 1 degrees of freedom. It uses the
    spread that was observed, and not the effect.

    Args:
        standard_error: Of the difference.
        n: Number of pairs.

    Returns:
        A positive difference, in the quantity's unit; NaN with fewer than two pairs, and where
        none differs from another.

    Example:
        >>> round(smallest_detectable(1.0, 10**6), 2)
        2.8
    """
    if n < 2 or standard_error == 0:
        return math.nan
    return float(stdtrit(n - 1, 1 - ALPHA / 2) + stdtrit(n - 1, POWER)) * standard_error
