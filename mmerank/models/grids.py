"""On which grids the rows of a picture lie, by which of them follow its left and its upper part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Grids = tuple[tuple[int, int], ...]


def parted(left: Flags, upper: Flags) -> Grids:
    """The grids that a picture's rows lie on, one of a grid's lines after the other.

    Args:
        left: Which rows follow the left part of the picture, (n,).
        upper: Which follow its upper part, (n,).

    Returns:
        Lines and columns of each grid: one, tiles that are laid out alike, or a thumbnail and a picture in detail;
        none where they lie on none of these.

    Example:
        >>> parted(np.array([1, 0, 1, 0], bool), np.array([1, 1, 0, 0], bool))
        ((2, 2),)
    """

    def of(rows: slice) -> tuple[int, int] | None:
        return _lines(left[rows], upper[rows]) or _lines(upper[rows], left[rows])

    n = len(left)
    if whole := of(slice(None)):
        return (whole,)
    for count in range(n // 4, 1, -1):  # two tiles on top of each other could be one
        if n % count == 0 and (tile := of(slice(n // count)) or of(slice(n - n // count, None))):
            each = [part for rows in (left, upper) for part in rows.reshape(count, *tile)]
            if all(not part.any() or _is_rectangle(part) for part in each):
                return (tile,) * count
    for first in range(4, n - 3):
        if (one := of(slice(first))) and (other := of(slice(first, None))):
            return one, other
    return ()


def _lines(across: Flags, along: Flags) -> tuple[int, int] | None:
    """The grid of rows of which the first of a line follow one part of a picture, and some lines another part.

    Args:
        across: Which rows follow the part that cuts each line, (n,).
        along: Which follow the part that cuts between lines, (n,).

    Returns:
        Lines, and rows of each; None where these are no such rows.
    """
    starts = np.flatnonzero(across & ~np.concatenate([[False], across[:-1]]))
    if len(starts) < 2:
        return None
    width = int(starts[1] - starts[0])
    if width < 2 or len(across) % width:
        return None
    cut, split = across.reshape(-1, width), along.reshape(-1, width)
    if not (_is_rectangle(cut) and _is_rectangle(split)):
        return None
    fewer_columns = cut.any(axis=0).sum() < max(split.any(axis=0).sum(), 2)
    fewer_lines = split.any(axis=1).sum() < cut.any(axis=1).sum()
    return (len(across) // width, width) if fewer_columns and fewer_lines else None


def _is_rectangle(changed: Flags) -> bool:
    """Whether what is set, of lines and columns, is one."""
    lines: Flags = np.asarray(changed.any(axis=1))
    columns: Flags = np.asarray(changed.any(axis=0))
    return bool((changed == lines[:, None] & columns).all()) and _is_run(lines) and _is_run(columns)


def _is_run(of: Flags) -> bool:
    """Whether all that is set stands together."""
    return int((np.diff(of.astype(int), prepend=0) == 1).sum()) == 1
