"""What each token adds to the entropy of its sample."""

from __future__ import annotations

from torch import Tensor

from mmerank.convention import Centre, Precision
from mmerank.states.entropy import spectral_entropy
from mmerank.states.spectrum import check_arguments
from mmerank.states.token_set import TokenSet


def leave_one_out(h: Tensor, *, centre: Centre = "mean", precision: Precision = "float64") -> Tensor:
    """Contribution of each token to the matrix entropy of all: H(all) - H(all without it).

    Both entropies are Diff-eRank (arXiv:2401.17139), Def. 3.3 of the covariance of Def. 3.1, so leaving a token out
    moves the mean, and with it every other token's direction. Its exp is the ratio of the effective ranks with and
    without the token. A positive contribution: the token adds directions. A negative one: the others spread over more
    without it, as without one that repeats what is there, or a massive activation that all others lie opposite to.
    Contributions do not sum to the entropy.

    Args:
        h: Hidden states, (n, d), floating point, n >= 2. It costs n decompositions, O(n⁴).
        centre: See `mmerank.states.spectrum.spectrum`.
        precision: See `mmerank.states.spectrum.spectrum`.

    Returns:
        Nats, (n,), float64, on the CPU; NaN where the others have no entropy, as of fewer than three tokens.

    Raises:
        TypeError: `h` is not a floating-point tensor.
        ValueError: It is no matrix, or a choice is unknown.
        TooFewTokens: n < 2.
        TokenAtCentre: A token equals the centre.
        NonFiniteTokens: `h` holds NaN or infinity.

    Example:
        >>> import torch
        >>> square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(float(leave_one_out(square).max()), 4)
        0.0201
    """
    check_arguments(h, None, centre, precision)
    if h.ndim != 2:
        raise ValueError(f"expected hidden states of shape (n, d), got {tuple(h.shape)}")
    return contributions(TokenSet(h, centre=centre, precision=precision))


def contributions(tokens: TokenSet) -> Tensor:
    """The same of tokens that are at hand.

    Args:
        tokens: These.

    Returns:
        As of `leave_one_out`.
    """
    return spectral_entropy(tokens.spectrum) - tokens.entropies_without_each()
