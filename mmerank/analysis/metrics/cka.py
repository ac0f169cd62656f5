"""Linear CKA between the mean states of images and texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.mean_states import POINTS, mean_states, split
from mmerank.analysis.sample import Floats, PairSample, Sample, no_means
from mmerank.convention import Aggregate

_QUANTITIES = tuple(Quantity(f"cka_{point}", f"linear CKA, {point}", f"CKA {point}", decimals=3) for point in POINTS)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Linear CKA of the image states at each hook point with the LLM's text states."""
    if (found := mean_states(records)) is None:
        return
    examples, images, text = found
    parts = [*images.values(), text]
    names = tuple(quantity.name for quantity in _QUANTITIES)
    widths = [part.shape[1] for part in parts]

    def of_columns(columns: Floats) -> tuple[Floats, Floats]:
        *of_images, of_text = split(columns, widths)
        each = [(linear_cka(x, of_text), cka_without_each(x, of_text)) for x in of_images]
        values, without = zip(*each, strict=True)
        return np.array(values), np.stack(without, axis=1)

    yield (
        "",
        PairSample(names, examples, np.concatenate(parts, axis=1), no_means, of_columns=of_columns),
    )


def linear_cka(x: Floats, y: Floats) -> float:
    """Centred kernel alignment with linear kernels, ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) of the centred X and Y.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019). With fewer examples than
    dimensions it is high for unrelated states too: read it against its null.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        Between 0 and 1; NaN where all rows of x, or of y, are equal.

    Example:
        >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(linear_cka(x, 3 * x @ np.array([[0.0, 1.0], [-1.0, 0.0]])), 9)
        1.0
    """
    return permuted_cka(x, y)(np.arange(len(x)))


def permuted_cka(x: Floats, y: Floats) -> Callable[[NDArray[np.int64]], float]:
    """Permutation -> linear CKA of x with the permuted rows of y; arguments as in `linear_cka`."""
    of_x, of_y = (_centred_kernel(z) for z in (x, y))
    scale = float(np.linalg.norm(of_x) * np.linalg.norm(of_y))

    def cka(order: NDArray[np.int64]) -> float:
        return float(np.vdot(of_x, of_y[order[:, None], order])) / scale if scale > 0 else math.nan

    return cka


def cka_without_each(x: Floats, y: Floats) -> Floats:
    """`linear_cka` without each example in turn.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        (n,), float64; NaN where it is not defined.
    """
    of_x, of_y = (_centred_kernel(z) for z in (x, y))
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


def _centred_kernel(x: Floats) -> Floats:
    x = x - x.mean(axis=0)
    kernel: Floats = x @ x.T
    return kernel


METRIC = Metric("cka", "Linear CKA of image and text", _QUANTITIES, _samples)
