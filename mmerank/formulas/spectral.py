"""Measures of one cloud of rows that are made of its spectrum: effective ranks, entropies, norms, decay.

Throughout: h are rows, (n, d); c the rows minus their mean; u the rows of c scaled to unit length; s singular values,
descending; λ = s(u)² / n, whose sum is 1. All of them are unchanged by rotation, by scale and by the order of rows.
All follow the number of rows: compare models on equally many. Where a row equals the mean, u does not exist, and what
needs it raises `TokenAtCentre`; where all rows are equal, what needs c raises `NoValue`.
"""

from __future__ import annotations

import numpy as np

from mmerank.formulas import spectra
from mmerank.formulas.arrays import (
    Floats,
    Rows,
    as_rows,
    centred,
    centred_unit_rows,
    shares,
    singular_values,
    unit_spectrum,
)


def erank(h: Rows) -> float:
    """Effective rank of mmerank, exp H(λ).

    Diff-eRank (arXiv:2401.17139), Def. 3.1 to 3.3; the same as `mmerank.effective_rank`.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d).
    """
    return spectra.rank_of_shares(unit_spectrum(as_rows(h)))


def erank_of_sigma(h: Rows) -> float:
    """Effective rank of the same rows by their singular values, exp H(√λ / Σ√λ).

    The number that the definition of Roy and Vetterli gives for centred rows of unit length.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d), not below `erank`.
    """
    return spectra.rank_of_shares(_values(h, "centred unit"))


def erank_raw(h: Rows) -> float:
    """Effective rank of the rows as they are, exp H(s(h) / Σs(h)).

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO 2007). An offset that all
    rows share counts as a direction.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n, d).
    """
    return spectra.rank_of_shares(_values(h, "raw"))


def erank_centred(h: Rows) -> float:
    """Effective rank of the centred rows, exp H(s(c) / Σs(c)): Roy and Vetterli (EUSIPCO 2007), applied to c.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d).
    """
    return spectra.rank_of_shares(_values(h, "centred"))


def erank_not_unit(h: Rows) -> float:
    """Effective rank of the covariance of rows that are centred and not scaled to unit length, exp H(s(c)² / Σs(c)²).

    What `erank` is without the scaling of each row: long rows, as massive activations, weigh more.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d).
    """
    return spectra.rank_of_shares(_values(h, "centred") ** 2)


def rankme(h: Rows, eps: float = spectra.RANKME_EPS) -> float:
    """RankMe, exp(-Σ p ln p) with p = s(h) / Σs(h) + eps, not normalised again.

    RankMe (arXiv:2210.02885), Eq. 1 and 2. Libraries differ: eps of 1e-5, or eigenvalues in place of singular values.

    Args:
        h: Rows, (n, d), floating point, n >= 2.
        eps: Is added to each of the min(n, d) shares.

    Returns:
        Between 1 and min(n, d), up to eps.
    """
    return spectra.rankme(_values(h, "raw"), eps)


def matrix_entropy_uncentred(h: Rows) -> float:
    """Entropy of the spectrum of the rows scaled to unit length, not centred, in nats.

    "Layer by Layer" (arXiv:2502.02013), the matrix-based entropy of order 1; the same as `mmerank.matrix_entropy`
    with `centre="none"`.

    Args:
        h: Rows, (n, d), floating point, n >= 2, none of them zero.

    Returns:
        Between 0 and ln min(n, d).
    """
    return spectra.renyi_entropy(_values(h, "unit"), order=1)


def renyi_entropy(h: Rows, order: float) -> float:
    """Rényi entropy of λ in nats, ln(Σ λ^a) / (1 - a); for a = 1 its limit, Shannon's.

    Args:
        h: Rows, (n, d), floating point, n >= 2.
        order: a > 0; infinity is the entropy of the largest share, -ln λ_1.

    Returns:
        Between 0 and ln min(n - 1, d), less the larger the order.

    Raises:
        ValueError: The order is not positive.
    """
    return spectra.renyi_entropy(_values(h, "centred unit"), order)


def participation_ratio(h: Rows) -> float:
    """Participation ratio, 1 / Σλ², by `mmerank.states.entropy.participation_ratio`.

    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement" (2017), of λ.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d), not above `erank`.
    """
    return spectra.participation_ratio(_values(h, "centred unit"))


def stable_rank(h: Rows) -> float:
    """Stable rank, 1 / λ_1, by `mmerank.states.entropy.stable_rank`.

    Rudelson and Vershynin, "Sampling from large matrices" (2007), of u.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 and min(n - 1, d), not above `participation_ratio`.
    """
    return spectra.stable_rank(_values(h, "centred unit"))


def anisotropy(h: Rows) -> float:
    """Share of the variance that the first principal direction holds, s_1(c)² / Σs(c)².

    LLM-Microscope (Razzhigaev et al.).

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 / min(n - 1, d) and 1.
    """
    return float(shares(_values(h, "centred") ** 2)[0])


def inverse_participation(h: Rows) -> float:
    """Inverse participation ratio of the squared singular values, Σ (s(h)² / Σs(h)²)².

    LoFi (arXiv:2503.06794), as we read it.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 / min(n, d) and 1.
    """
    p = shares(_values(h, "raw") ** 2)
    return float(p @ p)


def matrix_nuclear_norm(h: Rows) -> float:
    """Estimate of the nuclear norm of u over n: the sum of its min(n, d) largest column norms, divided by n.

    Matrix Nuclear-Norm (arXiv:2410.10672). A column norm needs no decomposition, and turns with the coordinates: this
    alone among the measures here is changed by a rotation. Exact: `nuclear_norm`.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Above 0, at most √(min(n, d) / n).
    """
    unit = centred_unit_rows(as_rows(h))
    norms = np.sort(np.linalg.norm(unit, axis=0))[::-1][: min(unit.shape)]
    return float(norms.sum() / len(unit))


def nuclear_norm(h: Rows) -> float:
    """Nuclear norm of u over n, Σs(u) / n; what Matrix Nuclear-Norm (arXiv:2410.10672) estimates.

    Args:
        h: Rows, (n, d), floating point, n >= 2.

    Returns:
        Between 1 / √n and √(min(n - 1, d) / n).
    """
    return float(_values(h, "centred unit").sum() / len(h))


def alpha_req(h: Rows, *, first: int = 3, last: int = 20, weighted: bool = False) -> float:
    """Decay of the eigenvalues of the covariance, a of s_k(c)² / Σs(c)² ~ k^-a over the ranks first..last.

    alpha-ReQ (NeurIPS 2022). Minus the slope of ln(s_k² / Σs²) on ln k by least squares, with equal weights or with
    1/k. The number depends on the fit and on the range: state both.

    Args:
        h: Rows, (n, d), floating point.
        first: First rank, 1-based.
        last: Last rank. There must be as many singular values that are not rounding.
        weighted: Weights 1/k.

    Returns:
        At least 0.

    Raises:
        ValueError: The ranks are no range.
        TooFewTokens: There are fewer singular values above rounding than `last`.
    """
    return spectra.alpha_req(_values(h, "centred"), first=first, last=last, weighted=weighted)


def k_energy(h: Rows, share: float = 0.9) -> float:
    """Least k for which λ_1 + ... + λ_k reaches a share of the trace.

    Args:
        h: Rows, (n, d), floating point, n >= 2.
        share: Between 0 and 1; reached up to rounding is reached.

    Returns:
        A whole number between 1 and min(n - 1, d).

    Raises:
        ValueError: The share is not above 0 and at most 1.
    """
    return spectra.k_energy(_values(h, "centred unit"), share)


def _values(h: Rows, form: spectra.Form) -> Floats:
    """Singular values of the rows in one of their forms."""
    rows = as_rows(h)
    if form in ("unit", "centred unit"):
        rows = centred_unit_rows(rows, "none" if form == "unit" else "mean")
    elif form == "centred":
        rows = centred(rows)
    return singular_values(rows)
