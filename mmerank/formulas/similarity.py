"""Measures of two sets of paired states: row i of x and row i of y are of one example, each in a space of its own.

All but `svcca`, which standardises each column by itself, are unchanged by a rotation and a scale of either side; all
by an order of rows that both share. They say something of pairing, and nothing by themselves: read them against
permuted pairs, and never resample examples with replacement, since repeated examples become neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmerank.errors import NoValue, TooFewTokens
from mmerank.formulas.arrays import EPS, Floats, Rows, as_pairs, centred, singular_values, unit_rows

# Terms that cancel to less than this share of them leave rounding.
_ROUNDING = 1e-12
# Cosines that differ by less say nothing, and those of directions that differ by less cannot be told apart.
_COSINES, _DIRECTIONS = 1e-10, 1e-6


def linear_cka(x: Rows, y: Rows) -> float:
    """Centred kernel alignment with linear kernels, ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) of the centred X and Y.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019). With fewer examples than
    dimensions it is high for unrelated states too: read it against its null.

    Args:
        x: A row per example, (n, d), floating point, n >= 2, not all equal.
        y: The same examples in the same order, (n, e).

    Returns:
        Between 0 and 1.

    Example:
        >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(linear_cka(x, 3 * x @ np.array([[0.0, 1.0], [-1.0, 0.0]])), 9)
        1.0
    """
    a, b = as_pairs(x, y)
    return permuted_cka(centred(a, "x"), centred(b, "y"))(np.arange(len(a)))


def unbiased_cka(x: Rows, y: Rows) -> float:
    """CKA with linear kernels and the unbiased HSIC of Song et al. (2012), 0 on average for unrelated states.

    Args:
        x: A row per example, (n, d), floating point, n >= 4, not all equal.
        y: The same examples in the same order, (n, e).

    Returns:
        About between 0 and 1; below 0 by chance.
    """
    a, b = as_pairs(x, y, least=4)
    a, b = centred(a, "x"), centred(b, "y")
    return _ratio(a @ a.T, b @ b.T)


def mutual_knn(x: Rows, y: Rows, k: int = 10) -> float:
    """Mean share of an example's k nearest neighbours among x that are so among y too, by cosine.

    Huh et al., "The Platonic Representation Hypothesis" (arXiv:2405.07987): the mutual nearest-neighbour metric.
    Chance is k / (n - 1). Of equal cosines the earlier row is nearer.

    On an example's mean states before and behind the connector it is the k-NN overlap across it (arXiv:2509.11986).

    Args:
        x: A row per example, (n, d), floating point, n > k, none zero, not all of one direction.
        y: The same examples in the same order, (n, e).
        k: Number of neighbours.

    Returns:
        Between 0 and 1.

    Example:
        >>> x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> mutual_knn(x, x[:, ::-1], k=1)
        1.0
    """
    a, b = _directed(x, y, k)
    return permuted_knn(a, b, k)(np.arange(len(a)))


def cycle_knn(x: Rows, y: Rows, k: int = 10) -> float:
    """Share of examples that are among the k neighbours in x of one of their k neighbours in y.

    Cycle consistency of Huh et al. (arXiv:2405.07987). It reaches 1 soon, for unrelated states too.

    Args:
        x: A row per example, (n, d), floating point, n > k, none zero, not all of one direction.
        y: The same examples in the same order, (n, e).
        k: Number of neighbours.

    Returns:
        Between 0 and 1.
    """
    a, b = _directed(x, y, k)
    near_x, near_y = neighbours(a, k), neighbours(b, k)
    back = (near_x[near_y] == np.arange(len(a))[:, None, None]).any(axis=(1, 2))
    return float(back.mean())


def cknna(x: Rows, y: Rows, k: int = 10) -> float:
    """Centred kernel alignment of nearest neighbours: unbiased CKA of cosine kernels that only neighbours count in.

    Huh et al. (arXiv:2405.07987): both kernels are masked by the k nearest neighbours that both sides have, and, in
    the denominator, each by its own. Without the 1e-6 that the published code adds to the denominator.

    Args:
        x: A row per example, (n, d), floating point, n > k and n >= 4, none zero, not all of one direction.
        y: The same examples in the same order, (n, e).
        k: Number of neighbours.

    Returns:
        About between 0 and 1.
    """
    a, b = _directed(x, y, k, least=4)
    of_x, of_y = a @ a.T, b @ b.T
    mask_x, mask_y = _mask(a, k), _mask(b, k)
    both = mask_x & mask_y
    across = _unbiased_hsic(both * of_x, both * of_y)
    return _normalised(across, *(_unbiased_hsic(m * z, m * z) for m, z in ((mask_x, of_x), (mask_y, of_y))))


def svcca(x: Rows, y: Rows, k: int = 10) -> float:
    """Mean canonical correlation of the first k left singular vectors of x and y, columns standardised (ddof 1).

    Raghu et al., "SVCCA" (2017), in the form of Huh et al. (arXiv:2405.07987). With n - 1 < 2k some correlations
    are 1 by construction.

    Args:
        x: A row per example, (n, d), floating point; at least k independent directions; no constant column.
        y: The same examples in the same order, (n, e).
        k: Number of singular vectors.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: k < 1.
        TooFewTokens: There are fewer than k independent directions.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1 singular vector, got {k}")
    bases = []
    for rows, name in zip(as_pairs(x, y), ("x", "y"), strict=True):
        left, values, _ = np.linalg.svd(_standardised(rows, name), full_matrices=False)
        rank = int((values > values[0] * max(rows.shape) * EPS).sum())
        if rank < k:
            raise TooFewTokens(
                f"{name}: {k} singular vectors need {k} independent directions, and rows of shape "
                f"{rows.shape} have {rank}"
            )
        bases.append(left[:, :k])
    return float(np.clip(singular_values(bases[0].T @ bases[1]), 0, 1).mean())


def rsa(x: Rows, y: Rows) -> float:
    """Representational similarity: correlation of the upper triangles of both matrices of cosines.

    Kriegeskorte et al. (2008), with cosines and Pearson's correlation.

    Args:
        x: A row per example, (n, d), floating point, n >= 3, none zero.
        y: The same examples in the same order, (n, e).

    Returns:
        Between -1 and 1.

    Raises:
        NoValue: All cosines of one side are equal.
    """
    a, b = as_pairs(x, y, least=3)
    above = np.triu_indices(len(a), 1)
    sides = []
    for rows, name in ((a, "x"), (b, "y")):
        unit = unit_rows(rows, name)
        cosines = (unit @ unit.T)[above]
        moved = cosines - cosines.mean()
        if not np.abs(moved).max() > _COSINES:
            raise NoValue(f"{name}: all rows have one cosine with each other, which correlates with nothing")
        sides.append(moved / np.linalg.norm(moved))
    return float(np.clip(sides[0] @ sides[1], -1, 1))


def permuted_cka(x: Floats, y: Floats) -> Callable[[NDArray[np.int64]], float]:
    """Linear CKA of x with the permuted rows of y, as a function of the permutation.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        Permutation, (n,) -> linear CKA; NaN where all rows of x, or of y, are equal.
    """
    of_x, of_y = (centred_kernel(z) for z in (x, y))
    scale = float(np.linalg.norm(of_x) * np.linalg.norm(of_y))

    def cka(order: NDArray[np.int64]) -> float:
        return float(np.vdot(of_x, of_y[order[:, None], order])) / scale if scale > 0 else math.nan

    return cka


def permuted_knn(x: Floats, y: Floats, k: int) -> Callable[[NDArray[np.int64]], float]:
    """Mutual k-NN of x with the permuted rows of y, as a function of the permutation.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).
        k: Number of neighbours, at most n - 1.

    Returns:
        Permutation, (n,) -> mutual k-NN.
    """
    near_x = neighbours(x, k)
    near_y = _mask(y, k)

    def overlap(order: NDArray[np.int64]) -> float:
        return float(near_y[order[:, None], order[near_x]].mean())

    return overlap


def neighbours(x: Floats, k: int) -> NDArray[np.int64]:
    """Indices of each row's k nearest other rows by cosine, nearest first; of equal ones the earlier row.

    Args:
        x: (n, d); a row of zeros has cosine 0 with every other.
        k: At most n - 1.

    Returns:
        (n, k).
    """
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(lengths > 0, lengths, 1)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return nearest


def _mask(x: Floats, k: int) -> NDArray[np.bool_]:
    """Whether row j is among the k nearest of row i, (n, n)."""
    near = np.zeros((len(x), len(x)), dtype=bool)
    np.put_along_axis(near, neighbours(x, k), True, axis=1)
    return near


def centred_kernel(x: Floats) -> Floats:
    """Inner products of the rows of `x`, centred, (n, n)."""
    x = x - x.mean(axis=0)
    kernel: Floats = x @ x.T
    return kernel


def _directed(x: Rows, y: Rows, k: int, *, least: int = 2) -> tuple[Floats, Floats]:
    """Unit rows of both sides, where each row has k neighbours that are nearer than others."""
    if k < 1:
        raise ValueError(f"k: expected at least 1 neighbour, got {k}")
    pairs = as_pairs(x, y, least=least)
    if len(pairs[0]) <= k:
        raise TooFewTokens(f"x and y: {k} neighbours of each row need at least {k + 1} rows, got {len(pairs[0])}")
    a, b = (unit_rows(rows, name) for rows, name in zip(pairs, ("x", "y"), strict=True))
    for unit, name in ((a, "x"), (b, "y")):
        if not np.abs(unit - unit[0]).max() > _DIRECTIONS:
            raise NoValue(
                f"{name}: all {len(unit)} rows have one direction (up to 1e-6), and no row is nearer than another"
            )
    return a, b


def _standardised(rows: Floats, name: str) -> Floats:
    """Columns with mean 0 and standard deviation 1 (ddof 1)."""
    moved = rows - rows[:1]
    constant = np.flatnonzero(~moved.any(axis=0))
    if len(constant):
        raise NoValue(
            f"{name}: column {constant[0]} ({len(constant)} of {rows.shape[1]}) is constant, which has no standard "
            "deviation to divide by; leave it out"
        )
    moved /= np.abs(moved).max(axis=0)
    moved -= moved.mean(axis=0)
    standardised: Floats = moved / moved.std(axis=0, ddof=1)
    return standardised


def _ratio(of_x: Floats, of_y: Floats) -> float:
    return _normalised(*(_unbiased_hsic(a, b) for a, b in ((of_x, of_y), (of_x, of_x), (of_y, of_y))))


def _normalised(across: float, of_x: float, of_y: float) -> float:
    if not (of_x > 0 and of_y > 0):
        side = "y" if of_x > 0 else "x"
        raise NoValue(f"{side}: its unbiased HSIC with itself is not above 0, so that nothing can be divided by it")
    return across / math.sqrt(of_x) / math.sqrt(of_y)


def _unbiased_hsic(k: Floats, l: Floats) -> float:  # noqa: E741
    """Of kernels, (n, n), n >= 4, which need not be symmetric: Song et al. (2012), Eq. 5."""
    n = len(k)
    k, l = (z - np.diag(np.diag(z)) for z in (k, l))  # noqa: E741
    traces = float(np.vdot(k, l.T))
    sums = float(k.sum()) * float(l.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(k.sum(axis=0) @ l.sum(axis=1)) / (n - 2)
    found = traces + sums - cross
    # What is left of terms that cancel is rounding.
    return found / (n * (n - 3)) if abs(found) > _ROUNDING * (abs(traces) + abs(sums) + abs(cross)) else 0.0
