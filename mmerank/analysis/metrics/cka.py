"""Linear CKA between the mean states of images and texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.mean_states import POINTS, mean_states, split, value_of
from mmerank.analysis.sample import Floats, PairSample, Sample, no_means
from mmerank.convention import Aggregate
from mmerank.formulas.similarity import centred_kernel, permuted_cka

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
        each = [(value_of(permuted_cka(x, of_text), len(columns)), cka_without_each(x, of_text)) for x in of_images]
        values, without = zip(*each, strict=True)
        return np.array(values), np.stack(without, axis=1)

    yield (
        "",
        PairSample(names, examples, np.concatenate(parts, axis=1), no_means, of_columns=of_columns),
    )


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


METRIC = Metric("cka", "Linear CKA of image and text", _QUANTITIES, _samples)
