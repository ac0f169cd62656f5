"""First and second difference of a number that is taken again and again while a model writes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def velocity(values: ArrayLike) -> float:
    """Mean of how far each value lies above the mean of those before it.

    The first-order difference of VERL (arXiv:2509.23808), there of effective ranks: ERV.

    Args:
        values: In order, (k,).

    Returns:
        In the unit of the values; NaN of fewer than 2.

    Example:
        >>> velocity([1.0, 2.0, 3.0])
        1.25
    """
    steps = _steps(values)
    return float(steps.mean()) if len(steps) else float("nan")


def acceleration(values: ArrayLike) -> float:
    """Mean of how far each of the differences behind `velocity` lies above the one before it.

    The second-order difference of VERL (arXiv:2509.23808), there of effective ranks: ERA.

    Args:
        values: In order, (k,).

    Returns:
        In the unit of the values; NaN of fewer than 3.

    Example:
        >>> acceleration([1.0, 2.0, 3.0])
        0.5
    """
    steps = _steps(values)
    return float(np.diff(steps).mean()) if len(steps) > 1 else float("nan")


def _steps(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    before = np.cumsum(found)[:-1] / np.arange(1, max(len(found), 1))
    return np.asarray(found[1:] - before)
