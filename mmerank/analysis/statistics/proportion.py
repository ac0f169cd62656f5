"""Shares of questions, and their intervals where questions share a picture."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from mmerank.analysis.sample import Floats


def share_interval(right: Floats, groups: Sequence[Hashable], level: float = 0.95) -> tuple[float, float]:
    """An interval of a share, over groups of questions that belong together.

    Wilson's score interval (J. Am. Stat. Assoc. 22, 1927) at an effective number of questions: n over the design
    effect, which is the variance of the share between groups over that of as many independent questions (Kish,
    Survey Sampling, 1965), corrected for few groups by Student's t (Korn and Graubard, Survey Methodology 24, 1998).
    Never narrower than that of independent questions. Where all answers are alike nothing tells the design effect,
    and each group counts once.

    Args:
        right: Of each question, 1 where the answer is right, 0 where it is wrong, between them where several are
            equally likely, (n,).
        groups: What each belongs to.
        level: Of confidence.

    Returns:
        Lower and upper limit; NaN of fewer than two groups.

    Example:
        >>> low, high = share_interval(np.array([1.0] * 8 + [0.0] * 2), range(10))
        >>> round(low, 2), round(high, 2)
        (0.49, 0.94)
    """
    n, share = len(right), float(np.mean(right)) if len(right) else math.nan
    _, group = np.unique(np.array([hash(of) for of in groups]), return_inverse=True)
    count = int(group.max()) + 1 if n else 0
    if count < 2:
        return math.nan, math.nan
    plain = share * (1 - share)
    if plain == 0:
        effective = float(count)
    else:
        totals = np.bincount(group, weights=right - share)
        between = count / (count - 1) * float(totals @ totals) / n**2
        effective = n / max(between * (n - 1) / plain, 1.0)
    t, z = stats.t.ppf((1 + level) / 2, count - 1), stats.norm.ppf((1 + level) / 2)
    effective *= float(z / t) ** 2 if count < n else 1.0
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(plain / effective + z**2 / (4 * effective**2))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
