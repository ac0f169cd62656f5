"""Measures of one cloud, or of two layers of it, that are made of distances and angles of rows.

All are unchanged by rotation and by scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mmerank.errors import NoValue, TooFewTokens
from mmerank.formulas.arrays import (
    EPS,
    Floats,
    Rows,
    as_clouds,
    as_floats,
    as_pairs,
    as_rows,
    centred,
    check_paired,
    scaled,
)

# A squared distance that is a smaller share of the squared lengths is not taken as their difference.
_NEAR = 1e-6


def twonn(h: Rows) -> float:
    """Intrinsic dimension from two nearest neighbours by maximum likelihood, (n - 1) / Σ ln μ.

    μ = r2 / r1 of each row, its distances to the nearest and the second nearest other row. Denti et al., of the
    estimator of Facco et al. (2017).

    Args:
        h: Rows, (n, d), floating point, n >= 3, all different.

    Returns:
        Above 0.
    """
    return twonn_of(nearest(h, 2))


def twonn_of(near: Floats) -> float:
    """The same of distances.

    Args:
        near: Of each row to its nearest other rows, ascending, (n, 2 or more), from `nearest`.

    Returns:
        Above 0.
    """
    return (len(near) - 1) / float(_log_ratios(near).sum())


def twonn_linear(h: Rows, *, discard: float = 0.1) -> float:
    """Intrinsic dimension from two nearest neighbours by a line: -ln(1 - F) = d ln μ, through the origin.

    Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information" (2017). μ
    ascending, F = i / n, least squares over the rows with the smallest μ.

    Args:
        h: Rows, (n, d), floating point, n >= 3, all different.
        discard: Share of the rows, those with the largest μ, that is left out; above 0, as F of the last one is 1.

    Returns:
        Above 0.

    Raises:
        ValueError: `discard` is not above 0 and below 1.
        TooFewTokens: No row is left.
        NoValue: All rows that are left have two nearest neighbours at the same distance.
    """
    if not 0 < discard < 1:
        raise ValueError(f"discard: expected a number above 0 and below 1, got {discard}")
    return twonn_linear_of(nearest(h, 2), discard=discard)


def twonn_linear_of(near: Floats, *, discard: float = 0.1) -> float:
    """The same of distances.

    Args:
        near: Of each row to its nearest other rows, ascending, (n, 2 or more), from `nearest`.
        discard: See `twonn_linear`.

    Returns:
        Above 0.

    Raises:
        TooFewTokens: No row is left.
        NoValue: All rows that are left have two nearest neighbours at the same distance.
    """
    x = np.sort(_log_ratios(near))
    n = len(x)
    kept = min(int(n * (1 - discard)), n - 1)
    if kept < 1:
        raise TooFewTokens(f"h: of {n} rows none is left when a share of {discard} is left out; give more rows")
    x = x[:kept]
    if not x.any():
        raise NoValue(
            f"h: the {kept} rows with the smallest μ have two nearest neighbours at the same distance, μ = 1"
        )
    y = -np.log1p(-np.arange(1, kept + 1) / n)
    return float(x @ y / (x @ x))


def lid(h: Rows, *, k: int = 10) -> float:
    """Local intrinsic dimension by maximum likelihood, the mean over rows of (k - 1) / Σ_j ln(r_k / r_j), j < k.

    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension" (2004).

    Args:
        h: Rows, (n, d), floating point, n > k, all different.
        k: Number of neighbours, >= 2.

    Returns:
        Above 0.

    Raises:
        ValueError: k < 2.
        NoValue: All k nearest neighbours of a row are at the same distance.
    """
    if k < 2:
        raise ValueError(f"k: expected at least 2 neighbours, got {k}")
    return lid_of(nearest(h, k))


def lid_of(r: Floats) -> float:
    """The same of distances.

    Args:
        r: Of each row to its k nearest other rows, ascending, (n, k), from `nearest`.

    Returns:
        Above 0.

    Raises:
        NoValue: All k nearest neighbours of a row are at the same distance.
    """
    k = r.shape[1]
    spread = np.log(r[:, -1:] / r[:, :-1]).sum(axis=1)
    if not spread.all():
        bad = int(np.flatnonzero(spread == 0)[0])
        raise NoValue(f"h: the {k} nearest neighbours of row {bad} are all at the same distance, as on a lattice")
    return float(((k - 1) / spread).mean())


def curvature(h: Rows) -> float:
    """Mean angle between successive differences of rows, in radians.

    Hosseini and Fedorenko, "Large language models implicitly learn to straighten neural sentence trajectories"
    (arXiv:2311.04930). The order of rows counts. One published code takes the angle of the rows themselves in its
    place: `angle_between_rows`.

    Args:
        h: Rows in their order, (n, d), floating point, n >= 3, no two successive ones equal.

    Returns:
        Between 0 (straight on) and π (back and forth).
    """
    return _mean_angle(
        np.diff(as_rows(h, least=3), axis=0), "rows {i} and {next} are equal, so that there is no step"
    )


def angle_between_rows(h: Rows) -> float:
    """Mean angle between successive rows, in radians: what the code of arXiv:2502.02013 calls curvature.

    Args:
        h: Rows in their order, (n, d), floating point, n >= 2, none zero.

    Returns:
        Between 0 and π.
    """
    return _mean_angle(as_rows(h), "row {i} is zero, so that it has no direction")


def linearity(x: Rows, y: Rows) -> float:
    """How well a linear map takes one layer to the next, 1 - min_A ‖XA - Y‖², centred and of Frobenius norm 1.

    Razzhigaev et al., "Your Transformer is Secretly Linear" (2024).

    Where the centred rows of x are independent, as they are whenever n <= d + 1, a map takes them to anything and the
    number is 1: that is refused. Rows pooled over examples are what it is for, and few above d + 1 still flatter.

    Args:
        x: Rows of a layer, (n, d), floating point.
        y: The same rows in another layer, (n, e).

    Returns:
        Between 0 and 1, the share of the spread of y that the best map gives.
    """
    a, b = as_pairs(x, y)
    return _explained(a, centred(b, "y"))


def linearity_of_residual(x: Rows, y: Rows) -> float:
    """The same for what the layer adds: 1 - min_A ‖XA - (Y - X)‖², centred and of Frobenius norm 1.

    Args:
        x: Rows of a layer, (n, d), floating point.
        y: The same rows in another layer, (n, d).

    Returns:
        Between 0 and 1; see `linearity`.
    """
    a, b = as_clouds(x, y, ("x", "y"))
    check_paired(a, b)
    return _explained(a, centred(b - a, "y - x"))


def linearity_held_out(x: Rows, y: Rows, x_new: Rows, y_new: Rows) -> float:
    """How well the affine map that is best on some rows takes others to the next layer, 1 - Σ‖ŷ - y‖² / Σ‖y - ȳ‖².

    On its own rows, as `linearity` has it, a map explains a share of about d / n of anything. Rows of one example
    should be on one side only. Where x determines no single map, it is the one of least norm.

    Args:
        x: Rows of a layer that the map is fitted to, (n, d), floating point, not all equal.
        y: The same rows in another layer, (n, e).
        x_new: Other rows of the first layer, (m, d).
        y_new: The same of the other layer, (m, e), not all equal.

    Returns:
        At most 1; below 0 where their own mean would have done better.

    Raises:
        NoValue: The new rows lie so far from those of the fit that squares overflow.
    """
    a, a_new = as_clouds(x, x_new, ("x", "x_new"))
    b, b_new = as_clouds(y, y_new, ("y", "y_new"))
    check_paired(a, b)
    check_paired(a_new, b_new, ("x_new", "y_new"))
    # Offsets that all rows share cost no digits then.
    a, a_new, b, b_new = a - a[:1], a_new - a[:1], b - b[:1], b_new - b[:1]
    for rows, name in ((a, "x"), (b_new, "y_new")):
        centred(rows, name)  # raises where all are equal
    left, values, right = _independent(a - a.mean(axis=0))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weights = (a_new - a.mean(axis=0)) @ right.T / values
        missed = weights @ (left.T @ (b - b.mean(axis=0))) + b.mean(axis=0) - b_new
        share = float((np.linalg.norm(missed) / np.linalg.norm(b_new - b_new.mean(axis=0))) ** 2)
    if not math.isfinite(share):
        raise NoValue("x_new: its rows lie so far from those of x that the squares of what is missed overflow")
    return 1 - share


def linearity_of_residual_held_out(x: Rows, y: Rows, x_new: Rows, y_new: Rows) -> float:
    """The same for what the layer adds, y - x.

    Args:
        x: Rows of a layer that the map is fitted to, (n, d), floating point, not all equal.
        y: The same rows in another layer, (n, d).
        x_new: Other rows of the first layer, (m, d).
        y_new: The same of the other layer, (m, d); what is added to them is not all equal.

    Returns:
        At most 1; see `linearity_held_out`.
    """
    for first, second, names in ((x, y, ("x", "y")), (x_new, y_new, ("x_new", "y_new"))):
        check_paired(*as_clouds(first, second, names), names)
    a, b, a_new, b_new = scaled(*(as_floats(rows, "x") for rows in (x, y, x_new, y_new)))
    return linearity_held_out(a, b - a, a_new, b_new - a_new)


def _independent(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Singular vectors and values of x, (n, d), those that are rounding left out: (n, r), (r,), (r, d)."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    kept = values > values[0] * max(x.shape) * EPS
    return left[:, kept], values[kept], right[kept]


def _explained(x: Floats, y: Floats) -> float:
    """Share of the squares of centred y, (n, e), that lies in the space of the columns of centred x, (n, d)."""
    x = centred(x, "x")
    left, _, _ = _independent(x)
    if left.shape[1] >= len(x) - 1:
        raise TooFewTokens(
            f"x: {len(x)} rows of width {x.shape[1]} are independent when centred, and a linear map takes them to "
            "anything: the linearity is 1 by construction; pool the rows of several examples, n > d + 1"
        )
    return float((np.linalg.norm(left.T @ y) / np.linalg.norm(y)) ** 2)


def nearest(h: Rows, k: int, inner: Floats | None = None) -> Floats:
    """Distances of each row to its k nearest other rows.

    Args:
        h: Rows, (n, d), floating point, n > k, all different.
        k: Number of neighbours.
        inner: Inner products of the centred rows, (n, n), where they are known up to a factor: distances follow from
            them up to its root, at the price of nothing, and where digits would be lost are taken of the rows.

    Returns:
        Ascending, (n, k), none zero.

    Raises:
        TooFewTokens: There are no more than k rows.
        NoValue: Two rows are equal.
    """
    distances = None if inner is None else _from_inner(inner)
    if len(h) <= k or distances is None:
        rows = as_rows(h)
        if len(rows) <= k:
            raise TooFewTokens(f"h: {k} neighbours of each row need at least {k + 1} rows, got shape {rows.shape}")
        from scipy.spatial.distance import cdist

        distances = cdist(rows, rows)
        np.fill_diagonal(distances, np.inf)
    near: Floats = np.sort(np.partition(distances, k - 1, axis=1)[:, :k], axis=1)
    if not near[:, 0].all():
        i, j = np.argwhere(distances == 0)[0]
        raise NoValue(
            f"h: rows {i} and {j} are equal, and a distance of 0 has no ratio to another; leave repeated rows out"
        )
    return near


def _from_inner(inner: Floats) -> Floats | None:
    """Distances from inner products, infinite of a row to itself; None where two are so near that digits are lost."""
    lengths = np.diag(inner)
    squares = lengths[:, None] + lengths - 2 * inner
    np.fill_diagonal(squares, np.inf)
    if not squares.min() > _NEAR * lengths.max():
        return None
    distances: Floats = np.sqrt(squares)
    return distances


def _log_ratios(near: Floats) -> Floats:
    """ln(r2 / r1) of each row, (n,), not all zero."""
    ratios: Floats = np.log(near[:, 1] / near[:, 0])
    if not ratios.any():
        raise NoValue("h: every row has its two nearest neighbours at the same distance, as on a lattice")
    return ratios


def _lengths(v: Floats) -> Floats:
    """Of rows whose squares do not overflow, in less time than `numpy.linalg.norm` takes."""
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", v, v))
    return lengths


def _mean_angle(v: Floats, why: str) -> float:
    """Mean angle of successive vectors, (m, d); by the half-angle, which is exact near 0 and π too."""
    largest = np.abs(v).max(axis=1, keepdims=True)
    if not largest.all():
        bad = int(np.flatnonzero(largest == 0)[0])
        raise NoValue(f"h: {why.format(i=bad, next=bad + 1)}")
    v = v / largest
    v /= _lengths(v)[:, None]
    apart, together = (_lengths(w) for w in (v[1:] - v[:-1], v[1:] + v[:-1]))
    return 2 * math.fsum(np.arctan2(apart, together)) / len(apart)


# The metrics that are functions of distances to nearest rows, by name: of how many, and which function.
OF_NEAREST: dict[str, tuple[int, Callable[[Floats], float]]] = {
    "twonn_mle": (2, twonn_of),
    "twonn_facco_linear_fit_discard10pct": (2, twonn_linear_of),
    "lid_mle_k10_mean": (10, lid_of),
}
