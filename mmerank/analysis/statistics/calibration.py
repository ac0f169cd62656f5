"""Statistics of paired examples against what they are when the pairing is shuffled, and scores that start there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmerank.analysis.statistics.null import NullTest, null_test
from mmerank.errors import NoValue
from mmerank.formulas.arrays import Floats

# Permutation of the second half of the pairs, (n,) -> number.
Permuted: TypeAlias = Callable[[NDArray[np.int64]], float]

PERMUTATIONS = 199


def permuted(function: Callable[..., float], x: NDArray[Any], y: NDArray[Any]) -> Permuted:
    """A metric of paired states, of x with the permuted rows of y.

    Of any metric, from the rows again at each permutation; of CKA and mutual k-NN `permuted_cka` and `permuted_knn`
    of `mmerank.formulas.similarity` do the same faster.

    Args:
        function: Two arrays -> number, as `mmerank.metric(NAME)`.
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        Permutation, (n,) -> number.
    """

    def of(order: NDArray[np.int64]) -> float:
        return function(x, y[order])

    return of


def shuffled(statistic: Permuted, n: int, permutations: int, seed: int) -> tuple[float, Floats]:
    """A statistic of paired examples, and what it is when the pairing is shuffled.

    Args:
        statistic: Permutation of the second half of the pairs, (n,), -> number.
        n: Number of pairs.
        permutations: How many.
        seed: Of the permutations.

    Returns:
        The value, and those of the permutations, (permutations,).
    """
    generator = np.random.default_rng(seed)
    value = statistic(np.arange(n))
    return value, np.array([statistic(generator.permutation(n)) for _ in range(permutations)], dtype=np.float64)


@dataclass(frozen=True)
class Calibrated:
    """A score that is 0 where shuffled pairs would do as well.

    Attributes:
        score: Between 0 and 1: (value - threshold) / (highest - threshold), at least 0.
        value: The statistic.
        threshold: What a share alpha of shuffled pairs exceeds.
        test: The value among those of shuffled pairs.
    """

    score: float
    value: float
    threshold: float
    test: NullTest


def calibrated(
    statistics: Permuted | Sequence[Permuted],
    n: int,
    *,
    aggregate: Callable[[Floats], float] = np.max,
    highest: float = 1.0,
    alpha: float = 0.05,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Calibrated:
    """A similarity of paired examples on a scale that begins where chance ends.

    arXiv:2602.14486: (s - t) / (s_max - t), floored at 0, with t the ceil((1 - alpha)(K + 1))-th smallest of s and
    its K values for shuffled pairs. Of several layers, or pairs of layers, the aggregate is calibrated: to calibrate
    each and take the best would favour models of many layers.

    Args:
        statistics: One, or one per layer, all of the same n examples; each permutation is applied to all.
        n: Number of pairs.
        aggregate: Values of the layers, (layers,) -> number; of one statistic it is not used.
        highest: Largest value that the statistic, or the aggregate, can have.
        alpha: Share of shuffled pairs that may pass.
        permutations: K, at least 1 / alpha - 1.
        seed: Of the permutations.

    Returns:
        The score, and what it is made of.

    Raises:
        ValueError: alpha is not between 0 and 1, or there are too few permutations for it, or no statistic, or a
        value
            is above `highest`.
        NoValue: The statistic has no value.
    """
    if not 0 < alpha < 1 or (permutations + 1) * alpha < 1 - 1e-9:
        raise ValueError(
            f"expected alpha between 0 and 1 and at least 1 / alpha - 1 permutations, got {alpha} and {permutations}"
        )
    layers = [statistics] if callable(statistics) else list(statistics)
    if not layers:
        raise ValueError("expected at least one statistic, got none")

    def whole(order: NDArray[np.int64]) -> float:
        values = np.array([statistic(order) for statistic in layers])
        return float(aggregate(values)) if len(layers) > 1 else float(values[0])

    value, draws = shuffled(whole, n, permutations, seed)
    if not (math.isfinite(value) and np.isfinite(draws).all()):
        raise NoValue(
            f"the statistic has no value for some pairing of the {n} examples, so that none can be compared"
        )
    # A value equal to that of shuffled pairs up to rounding does not exceed them.
    together = np.sort(np.append(draws, value))
    threshold = float(together[math.ceil((1 - alpha) * (permutations + 1) - 1e-9) - 1])
    slack = 1e-12 * max(abs(value), float(np.abs(draws).max()))
    if value > highest + slack:
        raise ValueError(f"expected no value above the highest, {highest}, got {value}")
    above = value - threshold
    score = min(1.0, above / (highest - threshold)) if above > slack else 0.0
    return Calibrated(score, value, threshold, null_test(value, draws.tolist(), alternative="greater"))
