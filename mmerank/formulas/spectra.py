"""Singular values -> measures: what the functions of rows in `spectral` end with.

Where rows are not kept, the singular values come from a Gram matrix, of rows or of columns, whichever is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from mmerank.errors import TooFewTokens
from mmerank.formulas.arrays import EPS, Floats, entropy, shares

# Rows as they are, scaled to unit length, centred, or both in the order of Diff-eRank: centred, then of unit length.
Form: TypeAlias = Literal["raw", "unit", "centred", "centred unit"]

RANKME_EPS = 1e-7


def values_of_gram(gram: Floats) -> Floats:
    """Singular values of rows from the inner products of the rows, or of the columns.

    Args:
        gram: Symmetric, positive semidefinite up to rounding, (k, k).

    Returns:
        Descending, (k,). Eigenvalues that are rounding count as 0, since their roots would be 1e-8; a singular value
        below 1e-8 of the largest is lost so.
    """
    return roots(np.asarray(np.linalg.eigvalsh(gram), dtype=np.float64))


def roots(eigenvalues: Floats) -> Floats:
    """Singular values from the eigenvalues of a Gram matrix.

    Args:
        eigenvalues: Ascending, (k,), not below 0 but for rounding.

    Returns:
        Descending, (k,), as from `values_of_gram`.
    """
    descending = eigenvalues[::-1]
    return np.sqrt(np.where(descending > descending[0] * len(descending) * EPS, descending, 0.0))


def rank_of_shares(weights: Floats) -> float:
    """Effective rank of weights, exp H of their shares.

    Args:
        weights: Singular values, or their squares, (k,), not all zero.

    Returns:
        Between 1 and k.
    """
    return math.exp(entropy(shares(weights)))


def rankme(values: Floats, eps: float = RANKME_EPS) -> float:
    """RankMe; see `spectral.rankme`.

    Args:
        values: Singular values of the rows as they are, (min(n, d),), not all zero.
        eps: Is added to each share.

    Returns:
        Between 1 and min(n, d), up to eps.
    """
    p = shares(values) + eps
    return math.exp(-float(p @ np.log(np.where(p > 0, p, 1.0))))


def renyi_entropy(values: Floats, order: float) -> float:
    """Rényi entropy of the squares; see `spectral.renyi_entropy`.

    Args:
        values: Singular values, descending, (k,), not all zero.
        order: Above 0.

    Returns:
        Between 0 and ln k.

    Raises:
        ValueError: The order is not positive.
    """
    if not order > 0:
        raise ValueError(f"order: expected a number > 0, got {order}")
    p = shares(values**2)
    if order == 1:
        return entropy(p)
    if math.isinf(order):
        return -math.log(p[0])
    # In shares of the largest, so that no power of a large order vanishes.
    return (order * math.log(p[0]) + math.log(float(((p / p[0]) ** order).sum()))) / (1 - order)


def participation_ratio(values: Floats) -> float:
    """(Σs²)² / Σs⁴, by `mmerank.states.entropy.participation_ratio`.

    Args:
        values: Singular values, (k,), not all zero.

    Returns:
        Between 1 and k.
    """
    import torch

    from mmerank.states.entropy import participation_ratio as of_spectrum

    return float(of_spectrum(torch.from_numpy(shares(values**2))))


def stable_rank(values: Floats) -> float:
    """Σs² / s_1², by `mmerank.states.entropy.stable_rank`.

    Args:
        values: Singular values, (k,), not all zero.

    Returns:
        Between 1 and k.
    """
    import torch

    from mmerank.states.entropy import stable_rank as of_spectrum

    return float(of_spectrum(torch.from_numpy(shares(values**2))))


def alpha_req(values: Floats, *, first: int = 3, last: int = 20, weighted: bool = False) -> float:
    """Decay of the squares; see `spectral.alpha_req`.

    Args:
        values: Singular values of the centred rows, descending, (k,); those that are rounding 0.
        first: First rank, 1-based.
        last: Last rank.
        weighted: Weights 1/k.

    Returns:
        At least 0.

    Raises:
        ValueError: The ranks are no range.
        TooFewTokens: There are fewer singular values above 0 than `last`.
    """
    if not 1 <= first < last:
        raise ValueError(f"expected ranks 1 <= first < last, got {first} and {last}")
    rank = np.count_nonzero(values)
    if rank < last:
        raise TooFewTokens(
            f"h: a slope over the ranks {first} to {last} needs {last} singular values above 0, and the centred rows "
            f"have {rank}; give more rows, or a smaller `last`"
        )
    x = np.log(np.arange(first, last + 1, dtype=np.float64))
    y = np.log(shares(values**2)[first - 1 : last])
    weights = np.exp(-x) if weighted else np.ones_like(x)
    x, y = (z - np.average(z, weights=weights) for z in (x, y))
    return -float((weights * x) @ y / ((weights * x) @ x))


def k_energy(values: Floats, share: float = 0.9) -> float:
    """Least k whose squares reach a share of their sum; see `spectral.k_energy`.

    Args:
        values: Singular values, descending, (k,), not all zero.
        share: Above 0, at most 1; reached up to rounding is reached.

    Returns:
        A whole number between 1 and k.

    Raises:
        ValueError: The share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number above 0 and at most 1, got {share}")
    return float(1 + np.searchsorted(np.cumsum(shares(values**2)), share - 1e-12))


def _of_squares(function: Callable[[Floats], float]) -> Callable[[Floats], float]:
    return lambda values: function(values**2)


# Every spectral metric that is a function of singular values, by its name: of which rows, and which function.
OF_VALUES: dict[str, tuple[Form, Callable[[Floats], float]]] = {
    "erank_diff_erank": ("centred unit", _of_squares(rank_of_shares)),
    "erank_sigma_of_centred_unit": ("centred unit", rank_of_shares),
    "erank_roy_vetterli_raw_sigma": ("raw", rank_of_shares),
    "erank_roy_vetterli_centred_sigma": ("centred", rank_of_shares),
    "rankme_paper_eps1e-7": ("raw", rankme),
    "erank_centred_not_unit_lambda": ("centred", _of_squares(rank_of_shares)),
    "matrix_entropy_uncentred_unit": ("unit", partial(renyi_entropy, order=1)),
    "renyi_entropy_alpha_0.5": ("centred unit", partial(renyi_entropy, order=0.5)),
    "renyi_entropy_alpha_2.0": ("centred unit", partial(renyi_entropy, order=2.0)),
    "participation_ratio": ("centred unit", participation_ratio),
    "stable_rank": ("centred unit", stable_rank),
    "k_energy_90": ("centred unit", k_energy),
    "anisotropy_mllm_microscope": ("centred", lambda values: float(shares(values**2)[0])),
    "singular_ipr_lofi": ("raw", lambda values: float((shares(values**2) ** 2).sum())),
    # Of unit rows Σs² is n.
    "nuclear_norm_exact_over_n": ("centred unit", lambda values: float(values.sum() / (values**2).sum())),
    "alpha_req_ols_ranks3to20": ("centred", alpha_req),
    "alpha_req_weighted_1_over_k_ranks3to20": ("centred", partial(alpha_req, weighted=True)),
}
