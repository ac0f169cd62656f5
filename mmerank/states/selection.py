"""Which of a picture's rows are kept: the methods of `mmerank prune-study`, as functions of arrays.

Each gives indices of rows, the ones to be kept first in front, so that the first m are what is kept of m. How many
are kept is the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def count_kept(count: int, share: float) -> int:
    """How many rows a share is: the nearest whole number, halves up.

    Args:
        count: Rows of the picture.
        share: Between 0 and 1.

    Returns:
        Rows that are kept.

    Example:
        >>> count_kept(576, 0.25), count_kept(36, 0.125)
        (144, 5)
    """
    return math.floor(count * share + 0.5 + 1e-9)


def by_chance(count: int, rng: np.random.Generator) -> Indices:
    """All rows in random order.

    Args:
        count: Rows of the picture.
        rng: What draws.

    Returns:
        (n,).
    """
    return rng.permutation(count).astype(np.int64)


def by_norm(rows: Floats) -> Indices:
    """Rows by their L2 norm, the longest first; of equal ones the earlier.

    Args:
        rows: (n, d).

    Returns:
        (n,).

    Example:
        >>> by_norm(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])).tolist()
        [1, 2, 0]
    """
    return by_weight(np.linalg.norm(rows, axis=1))


def by_weight(weights: Floats) -> Indices:
    """Rows by a number of each, the highest first; of equal ones the earlier.

    Args:
        weights: (n,), as attention that each receives.

    Returns:
        (n,).
    """
    return np.argsort(-weights, kind="stable").astype(np.int64)


def by_diversity(rows: Floats) -> Indices:
    """Rows by farthest-point selection on cosine distance, 1 - cos: each time the row farthest from all chosen ones.

    The max-min diversity problem, greedily, as DivPrune (arXiv:2503.02175) does for visual tokens. It begins with the
    row whose nearest other row is farthest away; of equal ones the earlier, so nothing is drawn. A row of zeros has
    the distance 1 from every other.

    Args:
        rows: (n, d).

    Returns:
        (n,).

    Example:
        >>> by_diversity(np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [0.0, 1.0]])).tolist()
        [2, 0, 3, 1]
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    apart = 1 - unit @ unit.T
    np.fill_diagonal(apart, np.inf)
    nearest = apart.min(axis=1) if len(rows) > 1 else np.zeros(len(rows))
    chosen = [int(nearest.argmax())]
    reach = apart[chosen[0]].copy()
    reach[chosen[0]] = -np.inf
    for _ in range(len(rows) - 1):
        following = int(reach.argmax())
        chosen.append(following)
        reach = np.minimum(reach, apart[following])
        reach[following] = -np.inf
    return np.array(chosen, np.int64)


def on_subgrids(count: int, kept: int, grids: Sequence[tuple[int, int]]) -> Indices:
    """Rows at the points of a regular sub-grid; without a grid, at a regular stride.

    The sub-grid has the grid's shape: about sqrt(kept * lines / columns) lines. Where its lines have no equal share
    of the rows, some have one more. A share of 1/4 of an even grid is every second row of every second line. Of
    several grids one after the other, as those of tiles, each has its share.

    Args:
        count: Rows of the picture.
        kept: How many of them.
        grids: Lines and columns of each, of as many rows together; none where it is not known on which they lie.

    Returns:
        (kept,), ascending.

    Example:
        >>> on_subgrids(16, 4, [(4, 4)]).tolist(), on_subgrids(16, 4, []).tolist()
        ([5, 7, 13, 15], [2, 6, 10, 14])
        >>> on_subgrids(20, 5, [(2, 2), (4, 4)]).tolist()
        [3, 9, 11, 17, 19]
    """
    if not grids:
        return _middles(count, kept)
    ends = np.cumsum([0, *(lines * columns for lines, columns in grids)])
    shares = np.diff(np.floor(ends * kept / count + 0.5).astype(int))
    return np.concatenate(
        [start + _on_one(int(share), *grid) for start, share, grid in zip(ends[:-1], shares, grids, strict=True)]
    )


def _on_one(kept: int, lines: int, columns: int) -> Indices:
    if not kept:
        return np.zeros(0, np.int64)
    least = -(-kept // columns)
    chosen = min(max(round(math.sqrt(kept * lines / columns)), least, 1), lines, kept)
    shares = np.diff(np.round(np.linspace(0, kept, chosen + 1)).astype(int))
    found = [
        line * columns + column
        for line, share in zip(_middles(lines, chosen), shares, strict=True)
        for column in _middles(columns, int(share))
    ]
    return np.array(found, np.int64)


def _middles(count: int, kept: int) -> Indices:
    """Every (count / kept)-th of so many, each from the middle of its stretch."""
    return np.floor((np.arange(kept) + 0.5) * count / kept).astype(np.int64)
