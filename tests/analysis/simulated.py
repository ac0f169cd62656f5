"""Entropies like those of image-text pairs, whose means are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.eranks import ERANKS

Floats = NDArray[np.float64]

# About the paper's Table 2: eRanks of LLaVA-1.5 on detail_23k.
MEANS = np.log([18.34, 11.28, 45.62, 74.21, 76.34])
# What an example's five entropies share through its picture, through its text, and what each has of its own.
LOADINGS = np.array([[0.30, 0, 0.12], [0.30, 0, 0.12], [0.12, 0, 0.10], [0, 0.45, 0.12], [0.06, 0.35, 0.10]])


def deviations(rng: np.random.Generator, *shape: int, skew: float = 1.0) -> Floats:
    """Deviations from the means, (*shape, 5): left-skewed, since short texts and plain pictures are the exception."""
    k = 4 / skew**2

    def unit(*size: int) -> Floats:
        return np.asarray((k - rng.gamma(k, size=size)) / np.sqrt(k))

    picture, text, own = unit(*shape, 1), unit(*shape, 1), unit(*shape, 5)
    return np.asarray(LOADINGS[:, 0] * picture + LOADINGS[:, 1] * text + LOADINGS[:, 2] * own)


def alignment_values(means: Floats) -> Floats:
    """The five eRanks and the two ratios of mean entropies (..., 5), by the definitions."""
    e1, e2, e3, e4, e5 = np.moveaxis(np.exp(means), -1, 0)
    highest = np.maximum(np.maximum(e3, e4), e5)
    return np.stack([e1, e2, e3, e4, e5, (e1 - e2) / e1, (e3 + e4 + e5) / 3 / highest], axis=-1)


def frame(entropies: Floats, *, model: str = "m", transform: str = "none", first: int = 0) -> pd.DataFrame:
    """Records of (n, 5) entropies, as `to_frame` gives them."""
    rows = [
        {
            "model": model,
            "example": f"{first + i:05d}",
            "point": point,
            "input": kind,
            "transform": transform,
            "n": 100,
            "d": 64,
            "entropy": entropy,
            "erank": np.exp(entropy),
            "loss": np.nan,
            "predicted": 0,
        }
        for i, example in enumerate(entropies)
        for entropy, (point, kind) in zip(example, ERANKS.values(), strict=True)
    ]
    return pd.DataFrame(rows)


def text_frame(entropies: Floats, losses: Floats, predicted: NDArray[np.int64], point: str = "final") -> pd.DataFrame:
    """Records of texts: (n, 1 + twins) entropies and losses, the trained model first; predicted tokens (n,)."""
    rows = [
        {
            "model": "m" if j == 0 else f"untrained seed {j - 1} [abc{j}]",
            "example": f"{i:05d}",
            "point": point,
            "input": "text",
            "transform": "none",
            "n": predicted[i] + 1,
            "d": 64,
            "entropy": entropies[i, j],
            "erank": np.exp(entropies[i, j]),
            "loss": losses[i, j],
            "predicted": predicted[i],
        }
        for i in range(len(entropies))
        for j in range(entropies.shape[1])
    ]
    return pd.DataFrame(rows)
