"""Whether numbers follow a truth over the steps of a ladder: rank correlation, its permutation test and interval.

Everything is taken within a shape of model and averaged over shapes, so that a level which is a shape's own says
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mmerank.analysis.statistics.null import null_test

Floats = NDArray[np.float64]
PERMUTATIONS, RESAMPLES = 9999, 2000
_AT_ONCE = 1 << 18  # values that are ranked in one call, where there are many resamples of few


def ranks(values: Floats) -> Floats:
    """Ranks of each column, (..., n, q), standardised: a mean product is Spearman's rho; 0 where all are equal."""
    ranked = np.asarray(stats.rankdata(values, axis=-2))
    centred = ranked - ranked.mean(axis=-2, keepdims=True)
    length = np.sqrt((centred**2).mean(axis=-2, keepdims=True))
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 0))


def rhos(values: Floats, truth: Floats) -> Floats:
    """Spearman's rho of each column, (..., n, q), with the truth, (..., n): (..., q)."""
    return np.asarray((ranks(values) * ranks(truth[..., None])).mean(axis=-2), np.float64)


@dataclass(frozen=True)
class Followed:
    """How numbers go with a truth over the steps of one or more shapes.

    Attributes:
        rho: Mean over shapes of Spearman's rho, (q,).
        low: Lower limit of its 95 % interval over steps.
        high: Upper limit.
        p: Two-sided, of permutations within shapes.
        each: rho by shape, (shapes, q).
    """

    rho: Floats
    low: Floats
    high: Floats
    p: Floats
    each: Floats


def followed(shapes: Sequence[tuple[Floats, Floats]], *, seed: int = 0) -> Followed:
    """Spearman's rho of numbers with the truth: permutation test and interval.

    Args:
        shapes: Of each shape the numbers, (n, q), and the truth, (n,), a row per step.
        seed: Of permutations and resamples.

    Returns:
        The mean over shapes; the truth is permuted within shapes; steps, all seeds of each together, are resampled
        within shapes.
    """
    rng = np.random.default_rng(seed)
    each = np.stack([rhos(values, truth) for values, truth in shapes])
    draws = np.zeros((PERMUTATIONS, each.shape[1]))
    again = np.zeros((RESAMPLES, each.shape[1]))
    for values, truth in shapes:
        n = len(truth)
        orders = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
        draws += ranks(truth[:, None])[orders, 0] @ ranks(values) / n / len(shapes)
        for rows in np.array_split(again, -(-again.size * n // _AT_ONCE)):
            some = rng.integers(n, size=(len(rows), n))
            rows += rhos(values[some], truth[some]) / len(shapes)
    rho = each.mean(axis=0)
    # Rounding must not tell equal statistics apart.
    p = [null_test(value, null.tolist()).p for value, null in zip(rho.round(9), draws.T.round(9), strict=True)]
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    return Followed(rho, low, high, np.array(p), each)


def partial(values: Floats, truth: Floats, beside: Floats) -> Floats:
    """Spearman's partial rho of each column with the truth, what goes with `beside` taken out of both, (q,)."""
    r, of, to = rhos(values, truth), rhos(values, beside), rhos(truth[:, None], beside)[0]
    rest = np.sqrt(np.clip((1 - of**2) * (1 - to**2), 0, None))
    return np.asarray(np.divide(r - of * to, rest, out=np.full_like(r, np.nan), where=rest > 1e-6))
