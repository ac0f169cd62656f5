"""Linear CKA between the mean states of images and texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.mean_states import POINTS, of_each_point
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate
from mmerank.formulas.similarity import centred_kernel, permuted_cka

_QUANTITIES = tuple(Quantity(f"cka_{point}", f"linear CKA, {point}", f"CKA {point}", decimals=3) for point in POINTS)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Linear CKA of the image states at each hook point with the LLM's text states."""

    def statistic(x: Floats, text: Floats) -> tuple[float, Floats]:
        return permuted_cka(x, text)(np.arange(len(x))), cka_without_each(x, text)

    return of_each_point("cka", records, statistic, (0.0, 1.0))


def cka_without_each(x: Floats, y: Floats) -> Floats:
    """`linear_cka` without each example in turn.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        (n,), float64; NaN where it is not defined.
    """
    of_x, of_y = (centred_kernel(z) for z in (x, y))
    both, self_x, self_y = _products(of_x, of_y), _products(of_x, of_x), _products(of_y, of_y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / np.sqrt(self_x.clip(min=0) * self_y.clip(min=0)))


def _products(a: Floats, b: Floats) -> Floats:
    """Inner product of two kernels without each example in turn, centred anew each time, (n,)."""
    n = len(a)
    product = a * b
    left = product.sum() - 2 * product.sum(axis=1) + np.diag(product)
    others = 1 - np.eye(n)
    rows_a, rows_b = ((kernel.sum(axis=1) - kernel) * others for kernel in (a, b))
    total_a, total_b = rows_a.sum(axis=1), rows_b.sum(axis=1)
    return np.asarray(left - 2 / (n - 1) * (rows_a * rows_b).sum(axis=1) + total_a * total_b / (n - 1) ** 2)


METRIC = Metric("cka", "Linear CKA of image and text", _QUANTITIES, _samples, own_place=True)
