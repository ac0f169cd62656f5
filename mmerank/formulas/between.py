"""Measures of two clouds of rows in one space, the image rows and the text rows of an example or of a data set.

The clouds may have different numbers of rows, and all measures here are unchanged by a scale that both share and by
the order of rows; by a rotation too, but for MIR where it replaces an outlier, coordinate by coordinate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from mmerank.errors import NoValue
from mmerank.formulas.arrays import (
    EPS,
    Floats,
    Rows,
    as_clouds,
    as_rows,
    check_widths,
    singular_values,
    unit_rows,
)

Route = Literal["nuclear", "covariance", "released"]
_NAMES = ("image", "text")
# Norms farther than this many standard deviations from their median are outliers to MIR.
_SIGMAS = 3
_RELEASED_STEPS = 5
_WELL_CONDITIONED = 1e10
# Beyond this many times the length of the text rows, squares of squares of the image rows overflow.
_LONGEST = 1e70


def modality_gap(image: Rows, text: Rows) -> float:
    """Length of the difference of the means of the unit rows, ‖mean(x/‖x‖) - mean(y/‖y‖)‖.

    Liang et al., "Mind the gap" (2022).

    Args:
        image: Rows, (n, d), floating point, n >= 1, none zero.
        text: Rows, (m, d), m >= 1, none zero.

    Returns:
        Between 0 and 2.
    """
    a, b = (as_rows(rows, name, least=1) for rows, name in zip((image, text), _NAMES, strict=True))
    check_widths(a, b, _NAMES)
    return float(np.linalg.norm(unit_rows(a, "image").mean(axis=0) - unit_rows(b, "text").mean(axis=0)))


def cosine_of_means(image: Rows, text: Rows) -> float:
    """Cosine of the means of the rows as they are; Liang et al. (2022).

    Args:
        image: Rows, (n, d), floating point, n >= 1, whose mean is not zero.
        text: Rows, (m, d), m >= 1, the same.

    Returns:
        Between -1 and 1.

    Raises:
        NoValue: A mean is zero up to rounding.
    """
    a, b = (as_rows(rows, name, least=1) for rows, name in zip((image, text), _NAMES, strict=True))
    check_widths(a, b, _NAMES)
    means = []
    for rows, name in zip((a, b), _NAMES, strict=True):
        mean, size = rows.mean(axis=0), np.abs(rows).mean(axis=0)
        if not (np.abs(mean) > len(rows) * EPS * size).any():
            raise NoValue(f"{name}: the mean of its {len(rows)} rows is zero, which has no direction")
        means.append(mean[None])
    cosine = unit_rows(means[0], "image") @ unit_rows(means[1], "text").T
    return float(np.clip(cosine[0, 0], -1, 1))


def mir_distance(image: Rows, text: Rows, *, route: Route = "nuclear") -> float:
    """Fréchet distance of one layer's image and text rows, as MIR sums it over layers.

    MIR (arXiv:2410.07167). Both clouds are divided by the mean norm of the text rows; rows whose norm is more than 3
    standard deviations (ddof 1) from the median norm are replaced by the coordinate-wise median, the lower one of two
    each time; then ‖m1 - m2‖² + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), covariances with ddof 1.

    `nuclear` takes the last trace as the nuclear norm of A_c B_c' / √((n - 1)(m - 1)), (n, m), without a matrix of
    the width; `covariance` from S1 and S2, (d, d), as moments that are summed up give them. They are equal.
    `released` is what the published code computes by default: five steps of a recurrence that should find (S1
    S2)^(1/2) and, in exact arithmetic, stays at S1 S2 itself from the first step on. It inverts S1 S2, which is
    singular wherever a cloud has no more rows than the width, and badly conditioned elsewhere; the number then is
    rounding, which a change of 1e-15 of the input moves in its second digit, and a RuntimeWarning says so. Use it to
    compare with published numbers only.

    Args:
        image: Rows, (n, d), floating point, n >= 2.
        text: Rows, (m, d), m >= 2, not all zero.
        route: See above.

    Returns:
        At least 0; `released` may be below.

    Raises:
        ValueError: Unknown route.
        NoValue: All text rows are zero or as good as zero beside the image rows, or the recurrence meets a singular
            matrix.
    """
    if route not in get_args(Route):
        raise ValueError(f"unknown route {route!r}; known: {', '.join(get_args(Route))}")
    a, b = as_clouds(image, text, _NAMES)
    length = float(np.linalg.norm(b, axis=1).mean())
    if not length:
        raise NoValue("text: all rows are zero, or vanish beside the image rows; MIR divides by their mean norm")
    if np.abs(a).max() > _LONGEST * length:
        raise NoValue(f"image: its rows are more than {_LONGEST:g} times as long as the text rows")
    factor = 1 / length
    a, b = _without_outliers(a * factor), _without_outliers(b * factor)
    apart = float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
    if route == "nuclear":
        spread, common = _spread_by_rows(a, b)
        return max(0.0, apart + spread - 2 * common)
    s1, s2 = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (a, b))
    spread = float(np.trace(s1) + np.trace(s2))
    if route == "covariance":
        return max(0.0, apart + spread - 2 * float(singular_values(_root(s1) @ _root(s2)).sum()))
    return apart + spread - 2 * _released_trace(s1 @ s2)


def mir(layers: Sequence[tuple[Rows, Rows]], *, route: Route = "nuclear") -> float:
    """Modality Integration Rate, log10 of the sum over layers of `mir_distance`.

    MIR (arXiv:2410.07167), on rows pooled over examples.

    Args:
        layers: Image rows and text rows of each layer, see `mir_distance`.
        route: See `mir_distance`.

    Returns:
        Any number; lower where the modalities lie closer.

    Raises:
        NoValue: There is no layer, or the clouds are the same in all.
    """
    total = math.fsum(mir_distance(image, text, route=route) for image, text in layers)
    if not total > 0:
        raise NoValue(f"the distances of {len(layers)} layers sum to {total}, of which there is no logarithm")
    return math.log10(total)


def _without_outliers(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1)
    far = np.abs(norms - _lower_median(norms)) > _SIGMAS * norms.std(ddof=1)
    return np.where(far[:, None], _lower_median(rows), rows)


def _lower_median(values: Floats) -> Floats:
    middle: Floats = np.sort(values, axis=0)[(len(values) - 1) // 2]
    return middle


def _spread_by_rows(a: Floats, b: Floats) -> tuple[float, float]:
    """From rows: tr S1 + tr S2, and tr (S1 S2)^(1/2)."""
    moved = [(rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1) for rows in (a, b)]
    return sum(float((c**2).sum()) for c in moved), float(singular_values(moved[0] @ moved[1].T).sum())


def _root(s: Floats) -> Floats:
    """Square root of a covariance; eigenvalues that are rounding, whose roots would not be, count as 0."""
    values, vectors = np.linalg.eigh(s)
    values[values < len(s) * EPS * values[-1]] = 0
    root: Floats = (vectors * np.sqrt(values)) @ vectors.T
    return root


def _released_trace(product: Floats) -> float:
    """What five steps of the published recurrence make of tr (S1 S2)^(1/2)."""
    y, z = product, np.eye(len(product))
    try:
        with np.errstate(all="ignore"):
            for _ in range(_RELEASED_STEPS):
                y = 0.5 * (y + np.linalg.inv(z) @ product)
                z = 0.5 * (z + np.linalg.inv(y) @ product)
    except np.linalg.LinAlgError:
        raise NoValue(
            "the published recurrence of MIR inverts the product of both covariances, which is singular here; "
            "use the exact distance"
        ) from None
    trace = float(np.trace(y))
    if not math.isfinite(trace):
        raise NoValue("the published recurrence of MIR does not converge on these rows; use the exact distance")
    if np.linalg.cond(product) > _WELL_CONDITIONED:
        warnings.warn(
            "the published recurrence of MIR inverts a matrix that is singular up to rounding, and its number is "
            "rounding too: compare no models by it",
            RuntimeWarning,
            stacklevel=3,
        )
    return trace
