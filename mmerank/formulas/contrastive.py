"""Measures of paired embeddings that losses of contrastive learning are made of, and LiDAR, of views of examples."""

from __future__ import annotations

import math

import numpy as np

from mmerank.errors import NoValue, TooFewTokens
from mmerank.formulas.arrays import (
    EPS,
    Floats,
    Rows,
    as_floats,
    as_pairs,
    as_rows,
    check_widths,
    entropy,
    shares,
    singular_values,
    unit_rows,
)

# Magnitudes beyond this have squares whose products overflow.
_LARGEST = 1e75


def alignment(x: Rows, y: Rows) -> float:
    """Mean squared distance of the unit rows of each pair, mean ‖x - y‖².

    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity"
    (arXiv:2005.10242), a = 2.

    Args:
        x: A row per example, (n, d), floating point, n >= 1, none zero.
        y: The same examples in the same order, (n, d).

    Returns:
        Between 0 and 4; 2 for unrelated directions.
    """
    a, b = _unit_pairs(x, y, least=1)
    return float(((a - b) ** 2).sum(axis=1).mean())


def uniformity(y: Rows, t: float = 2.0) -> float:
    """How evenly unit rows spread over the sphere, ln mean exp(-t ‖y_i - y_j‖²) over pairs i < j.

    Wang and Isola (arXiv:2005.10242).

    Args:
        y: Rows, (n, d), floating point, n >= 2, none zero.
        t: Above 0.

    Returns:
        Between -4t and 0, lower where they spread more.

    Raises:
        ValueError: t is not above 0.
    """
    if not t > 0:
        raise ValueError(f"t: expected a number above 0, got {t}")
    from scipy.spatial.distance import pdist
    from scipy.special import logsumexp

    squares = pdist(unit_rows(as_rows(y, "y"), "y"), "sqeuclidean")
    return float(logsumexp(-t * squares) - math.log(len(squares)))


def infonce(x: Rows, y: Rows, temperature: float = 0.1) -> float:
    """InfoNCE of cosines over a temperature, the mean of both directions, in nats.

    -ln of the share that softmax gives to an example's own partner, on average: of its y among all y, and of its x
    among all x.

    Args:
        x: A row per example, (n, d), floating point, n >= 2, none zero.
        y: The same examples in the same order, (n, d).
        temperature: Above 0.

    Returns:
        At least 0; ln n for unrelated pairs whose cosines are all equal.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    from scipy.special import logsumexp

    a, b = _unit_pairs(x, y, least=2)
    logits = a @ b.T / temperature
    own = np.diag(logits)
    return float(sum((logsumexp(logits, axis=axis) - own).mean() for axis in (0, 1)) / 2)


def lidar(views: Rows, delta: float = 1e-4) -> float:
    """LiDAR: effective rank of Sw^(-1/2) Sb Sw^(-1/2), the spread of examples in units of that of their views.

    LiDAR (ICLR 2024). Sb is the covariance of the examples' means (ddof 1), Sw the mean square of views about them,
    over n(q - 1), plus delta on the diagonal. Unlike the other measures it depends on scale, since delta does not
    follow it.

    Args:
        views: q views of each of n examples, (n, q, d), floating point, n >= 2, q >= 2.
        delta: Above 0.

    Returns:
        Between 1 and min(n - 1, d).

    Raises:
        ValueError: delta is not above 0.
        TooFewTokens: n < 2 or q < 2.
        NoValue: All examples have one mean, or the numbers are too large for their squares.
    """
    if not delta > 0:
        raise ValueError(f"delta: expected a number above 0, got {delta}")
    z = as_floats(views, "views", ndim=3)
    n, q, d = z.shape
    if n < 2 or q < 2:
        raise TooFewTokens(f"views: expected at least 2 examples and 2 views of each, got shape {z.shape}")
    if np.abs(z).max() > _LARGEST:
        raise NoValue(f"views: magnitudes above {_LARGEST:g} have squares that overflow; divide them by a constant")
    z = z - z[:1, :1]
    means = z.mean(axis=1)
    between = means - means.mean(axis=0)
    within = (z - means[:, None]).reshape(n * q, d)
    if not np.abs(between).max() > 1e-14 * np.abs(z).max():
        raise NoValue(f"views: all {n} examples have one mean over their views, so that nothing sets them apart")
    values, vectors = np.linalg.eigh(within.T @ within / (n * (q - 1)))
    # What is rounding may be far more than delta.
    values[values < d * EPS * values[-1]] = 0
    # Of the means rather than of Sb, which has the same spectrum but with the squares' rounding.
    whitened = (between / math.sqrt(n - 1)) @ vectors / np.sqrt(values + delta)
    return math.exp(entropy(shares(singular_values(whitened) ** 2, "views")))


def _unit_pairs(x: Rows, y: Rows, *, least: int) -> tuple[Floats, Floats]:
    a, b = as_pairs(x, y, least=least)
    check_widths(a, b, ("x", "y"))
    return unit_rows(a, "x"), unit_rows(b, "y")
