"""Spearman's rank correlation of few models: exact p, and what is left of it beside other numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mmerank.analysis.sample import Floats

# Up to so many models all orders are counted; of more, this many are drawn.
EXACT = 12
PERMUTATIONS = 99_999


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation.

    Attributes:
        rho: Spearman's rho, -1 to 1; NaN where one of both is the same for all, or there are fewer than three.
        p: Two-sided, of the permutation test: the share of all orders of one of both whose |rho| is as large or
            larger.
        n: Number of models.
        exact: Whether all orders were counted.
    """

    rho: float
    p: float
    n: int
    exact: bool


def spearman(x: Sequence[float] | Floats, y: Sequence[float] | Floats, *, seed: int = 0) -> RankCorrelation:
    """Spearman's rank correlation, with midranks where values are tied, and the p of its permutation test.

    Spearman, Am. J. Psychol. 15 (1904). Up to `EXACT` pairs all orders are counted, over subsets of what is taken and
    not one by one; of more, `PERMUTATIONS` are drawn, and p = (b + 1) / (m + 1).

    Args:
        x: Finite numbers, (n,).
        y: The same of the same models.
        seed: Of the permutations.

    Returns:
        The correlation.

    Example:
        >>> found = spearman([1, 2, 3, 4], [1, 2, 3, 4])
        >>> found.rho, round(found.p, 4)  # 2 of 24 orders are as extreme
        (1.0, 0.0833)
    """
    # Twice the midranks are whole, and sums of their products exact.
    a, b = (np.rint(2 * stats.rankdata(values)).astype(np.int64) for values in (x, y))
    n = len(a)
    if n < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return RankCorrelation(math.nan, math.nan, n, True)
    middle = n * (n + 1) ** 2  # of the sum of products, where nothing is related
    spread = math.sqrt(float(((a - (n + 1)) ** 2).sum()) * float(((b - (n + 1)) ** 2).sum()))
    found = int(a @ b) - middle
    if n <= EXACT:
        sums, counts = _orders(tuple(sorted(a.tolist())), tuple(sorted(b.tolist())))
        p = float(counts[np.abs(sums - middle) >= abs(found)].sum() / counts.sum())
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.permuted(np.broadcast_to(b, (PERMUTATIONS, n)), axis=1) @ a
        p = (int((np.abs(drawn - middle) >= abs(found)).sum()) + 1) / (PERMUTATIONS + 1)
    return RankCorrelation(found / spread, p, n, n <= EXACT)


@lru_cache(maxsize=64)
def _orders(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every sum of products of `a` with an order of `b`, and how many orders give it."""
    n, most = len(a), int(np.dot(a, b))  # both ascending, so no order gives more
    by_subset: dict[int, NDArray[np.int64]] = {0: np.eye(1, most + 1, dtype=np.int64)[0]}
    for first in a:
        following: dict[int, NDArray[np.int64]] = {}
        for taken, counts in by_subset.items():
            for place in range(n):
                if not taken >> place & 1:
                    into = following.setdefault(taken | 1 << place, np.zeros(most + 1, dtype=np.int64))
                    step = first * b[place]
                    into[step:] += counts[: most + 1 - step]
        by_subset = following
    (counts,) = by_subset.values()
    sums = np.flatnonzero(counts)
    return sums, counts[sums]


def partial(x: Sequence[float] | Floats, y: Sequence[float] | Floats, beside: Sequence[Any]) -> tuple[float, float]:
    """Spearman's correlation of what is left of both when other numbers are taken off, all of them by their ranks.

    Args:
        x: Finite numbers, (n,).
        y: The same of the same models.
        beside: Other numbers of the models, (n,) each; those that are the same for all say nothing and are left out.

    Returns:
        The partial correlation, and its two-sided p by Student's t with n - 2 - k degrees of freedom, an
        approximation; NaN where nothing is left, or there are too few models.
    """
    ranks = [stats.rankdata(of) for of in (x, y, *beside)]
    n = len(ranks[0])
    known = np.stack([np.ones(n), *(of for of in ranks[2:] if np.ptp(of) > 0)], axis=1)
    free = n - 1 - int(np.linalg.matrix_rank(known))
    if free < 1:
        return math.nan, math.nan
    left = [of - known @ np.linalg.lstsq(known, of, rcond=None)[0] for of in ranks[:2]]
    sizes = [float(np.linalg.norm(of)) for of in left]
    if min(sizes) <= 1e-9 * n:
        return math.nan, math.nan
    r = float(np.clip(left[0] @ left[1] / (sizes[0] * sizes[1]), -1, 1))
    t = r * math.sqrt(free / max(1 - r * r, 1e-15))
    return r, float(2 * stats.t.sf(abs(t), free))
