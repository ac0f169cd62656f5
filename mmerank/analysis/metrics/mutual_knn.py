"""Shared nearest neighbours of images and texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.mean_states import POINTS, of_each_point
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate
from mmerank.formulas.similarity import neighbours as nearest
from mmerank.formulas.similarity import permuted_knn

# Huh et al. take 10 of 1024; of fewer examples, fewer.
NEIGHBOURS, SHARE = 10, 10
_QUANTITIES = tuple(
    Quantity(f"mutual_knn_{point}", f"mutual k-NN, {point}", f"k-NN {point}", decimals=3) for point in POINTS
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Mutual k-NN of the image states at each hook point with the LLM's text states."""

    def statistic(x: Floats, text: Floats) -> tuple[float, Floats]:
        k = neighbours(len(x))
        return permuted_knn(x, text, k)(np.arange(len(x))), knn_without_each(x, text, k)

    return of_each_point("mutual_knn", records, statistic, (0.0, 1.0))


def neighbours(n: int) -> int:
    """How many nearest neighbours are looked at.

    Args:
        n: Number of examples.

    Returns:
        10; of fewer than 100 examples a tenth of them, at least 1.
    """
    return max(1, min(NEIGHBOURS, n // SHARE))


def knn_without_each(x: Floats, y: Floats, k: int) -> Floats:
    """`mutual_knn` without each example in turn, with the same k.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).
        k: Number of neighbours.

    Returns:
        (n,), float64; NaN where there are no more than k others left.
    """
    n = len(x)
    if n < k + 2:
        return np.full(n, np.nan)
    every = np.arange(n)[:, None]
    near_x, near_y = nearest(x, k + 1), nearest(y, k + 1)
    # Who comes in where one of the k is left out.
    next_x, next_y = near_x[:, k], near_y[:, k]
    in_x, in_y = np.zeros((n, n), dtype=bool), np.zeros((n, n), dtype=bool)
    in_x[every, near_x[:, :k]] = in_y[every, near_y[:, :k]] = True
    shared = in_x & in_y
    counts = shared.sum(axis=1)
    x_comes, y_comes = in_y[every[:, 0], next_x], in_x[every[:, 0], next_y]
    # What leaving out column i changes in the count of row j.
    change = np.where(in_x & ~in_y, x_comes[:, None], 0) + np.where(in_y & ~in_x, y_comes[:, None], 0)
    both = x_comes.astype(int) + y_comes + (next_x == next_y) - 1
    change = change + np.where(shared, both[:, None], 0)
    return np.asarray((counts.sum() - counts + change.sum(axis=0)) / (k * (n - 1)))


METRIC = Metric("mutual_knn", "Mutual k-NN of image and text", _QUANTITIES, _samples, own_place=True)
