"""Eigenvalues -> matrix entropy (nats) -> effective rank, and what else one spectrum tells."""

from __future__ import annotations

import torch
from torch import Tensor

from mmerank.convention import Centre, Precision
from mmerank.states.differentiable import entropy_with_gradient
from mmerank.states.spectrum import spectrum


def spectral_entropy(eigenvalues: Tensor) -> Tensor:
    """Matrix entropy of a trace-normalised spectrum, H = -Σ λ log λ with 0 log 0 = 0.

    Diff-eRank (arXiv:2401.17139), Def. 3.3.

    Args:
        eigenvalues: Non-negative, sum 1 over the last dimension, (..., k), floating point.

    Returns:
        Entropy in nats, (...).

    Example:
        >>> spectral_entropy(torch.tensor([0.5, 0.5, 0.0])).exp()
        tensor(2.)
    """
    entropy: Tensor = torch.special.entr(eigenvalues).sum(dim=-1)
    return entropy


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    """Participation ratio of a trace-normalised spectrum, 1 / Σ λ²: the effective rank of Rényi order 2.

    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement" (2017).

    Args:
        eigenvalues: Non-negative, sum 1 over the last dimension, (..., k), floating point.

    Returns:
        Between 1 and k, (...).

    Example:
        >>> participation_ratio(torch.tensor([0.5, 0.5, 0.0]))
        tensor(2.)
    """
    return 1 / eigenvalues.square().sum(dim=-1)


def top_share(eigenvalues: Tensor) -> Tensor:
    """Share of the trace that the largest eigenvalue holds.

    Args:
        eigenvalues: Non-negative, sum 1 over the last dimension, (..., k), floating point.

    Returns:
        Between 1/k and 1, (...).

    Example:
        >>> top_share(torch.tensor([0.75, 0.25]))
        tensor(0.7500)
    """
    return eigenvalues.amax(dim=-1)


def stable_rank(eigenvalues: Tensor) -> Tensor:
    """Stable rank of the matrix U of unit rows behind the spectrum, ‖U‖²_F / ‖U‖²_2 = 1 / λ_max.

    Rudelson and Vershynin, "Sampling from large matrices" (2007). The reciprocal of `top_share`.

    Args:
        eigenvalues: Non-negative, sum 1 over the last dimension, (..., k), floating point.

    Returns:
        Between 1 and k, (...).

    Example:
        >>> stable_rank(torch.tensor([0.5, 0.25, 0.25]))
        tensor(2.)
    """
    return 1 / top_share(eigenvalues)


def erank_fraction(erank: float, n: int, d: int) -> float:
    """Effective rank as a fraction of the most that n centred tokens of width d can have, min(n - 1, d).

    Args:
        erank: Effective rank.
        n: Number of tokens, >= 2.
        d: Width of the hidden states.

    Returns:
        Between 0 and 1.

    Example:
        >>> erank_fraction(4.0, n=9, d=64)
        0.5
    """
    return erank / min(n - 1, d)


def matrix_entropy(
    h: Tensor,
    *,
    mask: Tensor | None = None,
    centre: Centre = "mean",
    precision: Precision = "float64",
    grad: bool = False,
) -> Tensor:
    """Matrix entropy of the covariance of a set of tokens.

    Diff-eRank (arXiv:2401.17139), Def. 3.3 of the covariance of Def. 3.1. Arguments and errors as in
    `mmerank.states.spectrum.spectrum`.

    Args:
        h: Hidden states, (n, d), or (b, n, d) for a batch; floating point; n >= 2.
        mask: For a batch, (b, n), non-zero where the row is a token of the sample.
        centre: `mean`, `median` or `none`.
        precision: `float64` or `mixed`.
        grad: Keep the gradient, by `mmerank.states.differentiable.entropy_with_gradient`. Without it the result has
            none.

    Returns:
        Entropy in nats, float64, 0-dim, or (b,) for a batch; on the CPU, with `grad` on the device of `h`.

    Raises:
        ValueError: A gradient is asked for in mixed precision; what else `mmerank.states.spectrum.spectrum` says.

    Example:
        >>> matrix_entropy(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(0., dtype=torch.float64)
    """
    if grad:
        if precision != "float64":
            raise ValueError(f"a gradient is computed in float64, got precision={precision!r}")
        return entropy_with_gradient(h, mask=mask, centre=centre)
    return spectral_entropy(spectrum(h, mask=mask, centre=centre, precision=precision))


def effective_rank(
    h: Tensor,
    *,
    mask: Tensor | None = None,
    centre: Centre = "mean",
    precision: Precision = "float64",
    grad: bool = False,
) -> Tensor:
    """Effective rank (eRank) of a set of tokens: exp of the matrix entropy of their covariance.

    Diff-eRank (arXiv:2401.17139), Def. 3.2 of the covariance of Def. 3.1. Arguments and errors as in
    `mmerank.states.spectrum.spectrum`.

    Args:
        h: Hidden states, (n, d), or (b, n, d) for a batch; floating point; n >= 2.
        mask: For a batch, (b, n), non-zero where the row is a token of the sample.
        centre: `mean`, `median` or `none`.
        precision: `float64` or `mixed`.
        grad: Keep the gradient, for a loss; see `matrix_entropy`. Without it the result has none.

    Returns:
        Effective rank, between 1 and min(n - 1, d), float64, 0-dim, or (b,) for a batch; on the CPU, with `grad` on
        the device of `h`.

    Example:
        >>> tokens = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(effective_rank(tokens).item(), 9)
        2.0
    """
    return matrix_entropy(h, mask=mask, centre=centre, precision=precision, grad=grad).exp()
