"""How much of an update lies in the directions that the rows it is added to have already."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmerank.convention import Centre
from mmerank.errors import NoSpectrum
from mmerank.states.entropy import spectral_entropy
from mmerank.states.spectrum import directions, smaller_gram

# An effective rank that is so little above a whole number is that number.
_ROUNDING = 1e-6


class Inside(NamedTuple):
    """Where an update lies against the rows it is added to.

    Both are centred and scaled to unit length as for an effective rank, and the span of either is that of its first r
    principal directions, r being its effective rank, rounded up.

    Attributes:
        share: Of the update's squared length, in the span of the input: mean over rows of |P u_i|², between 0 and 1.
            The share of a gradient in a subspace of Gur-Ari, Roberts and Dyer (arXiv:1812.04754).
        share_by_chance: What rows of random directions have: r / d.
        overlap: Of the two spans: |V' W|² / min(r, s), the mean of the squared cosines of their principal angles; the
            subspace similarity of LoRA (arXiv:2106.09685), Sec. 7.2.
        overlap_by_chance: What two random spans of r and s dimensions have: max(r, s) / d.
        norm_ratio: Mean over rows of |u_i| / |x_i|, nothing subtracted: the relative contribution of Csordás, Manning
            and Potts (arXiv:2505.13898).
        entropy: Of the update, in nats, as everywhere.
    """

    share: float
    share_by_chance: float
    overlap: float
    overlap_by_chance: float
    norm_ratio: float
    entropy: float


NOWHERE = Inside(*[math.nan] * len(Inside._fields))


def inside(update: Tensor, stream: Tensor, *, centre: Centre = "mean") -> Inside:
    """How much of an update lies in the directions that the rows it is added to have already.

    Args:
        update: What is added, (n, d), floating point, n >= 2.
        stream: What it is added to, (n, d).
        centre: Of both, see `mmerank.states.spectrum.spectrum`.

    Returns:
        The numbers.

    Raises:
        NoSpectrum: One of the two has fewer than 2 rows, one that equals its centre, or one that is not finite.
    """
    x, _ = directions(stream, centre)
    u, _ = directions(update, centre)
    n, d = x.shape
    values, of_x, _ = _leading(smaller_gram(x, "float64").cpu())
    weights, of_u, entropy = _leading(smaller_gram(u, "float64").cpu())
    if n <= d:  # the vectors are of rows, and all follows from their inner products
        along = (u @ x.mT).cpu() @ (of_x / values.sqrt())  # the update on the input's directions, (n, r)
        between = (of_u / weights.sqrt()).mT @ along
    else:
        along = (u @ of_x.to(u.device)).cpu()
        between = of_u.mT @ of_x
    r, s = of_x.shape[1], of_u.shape[1]
    raw = [torch.linalg.vector_norm(h.detach().cpu(), dim=1, dtype=torch.float64) for h in (update, stream)]
    return Inside(
        share=float(along.square().sum() / n),
        share_by_chance=r / d,
        overlap=float(between.square().sum() / min(r, s)),
        overlap_by_chance=max(r, s) / d,
        norm_ratio=float((raw[0] / raw[1]).mean()),
        entropy=entropy,
    )


def inside_of_those(update: Tensor, stream: Tensor, rows: Tensor, *, centre: Centre = "mean") -> Inside:
    """The same of some of the rows alone, about their own centre; NaN where they have no effective rank.

    Args:
        update: As of `inside`.
        stream: As of `inside`.
        rows: Places, (m,), int64.
        centre: As of `inside`.

    Returns:
        The numbers.
    """
    rows = rows.to(update.device)
    try:
        return inside(update[rows], stream[rows], centre=centre)
    except NoSpectrum:
        return NOWHERE


def _leading(inner: Tensor) -> tuple[Tensor, Tensor, float]:
    """The r largest eigenvalues of inner products, (r,), their vectors, (k, r), r the eRank, and the entropy."""
    values, vectors = torch.linalg.eigh(inner)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    entropy = float(spectral_entropy(values / values.sum()))
    rank = math.ceil(math.exp(entropy) - _ROUNDING)
    return values[:rank], vectors[:, :rank], entropy
