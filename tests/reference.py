"""Effective rank straight from the paper's definitions, in float64 numpy: the independent route."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def covariance(z: NDArray[Any]) -> NDArray[np.float64]:
    """Def. 3.1."""
    z = z.astype(np.float64)
    centred = z - z.mean(axis=0)
    u = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    sigma: NDArray[np.float64] = u.T @ u / len(u)
    return sigma


def entropy(z: NDArray[Any]) -> float:
    """Def. 3.3, through the singular values of Def. 3.2."""
    singular = np.linalg.svd(covariance(z), compute_uv=False)
    p = singular / singular.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
