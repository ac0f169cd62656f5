"""Any of a sample's tokens -> their entropy, from one matrix of inner products; centres as `spectrum` does."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mmerank.convention import Centre, Precision
from mmerank.errors import DegenerateTokens
from mmerank.states.eigenvalues import shares
from mmerank.states.entropy import spectral_entropy
from mmerank.states.spectrum import PendingGram, directions, spectrum

# What centring a block of inner products may cost; where it would cost more, the tokens themselves are centred.
_TOLERANCE: dict[Precision, float] = {"float64": 1e-12, "mixed": 1e-5}
_ROUNDING: dict[Precision, float] = {
    "float64": torch.finfo(torch.float64).eps,
    "mixed": torch.finfo(torch.float32).eps,
}


class TokenSet:
    """One sample's tokens, of which any subset can be measured without another pass over the hidden states.

    With c_i the tokens centred by the mean of all, the inner products of a subset S centred by its own mean are
    those of all, centred twice: ⟨c_i - c̄, c_j - c̄⟩ = G_ij - G_i· - G_·j + G_··, the dots standing for means over S
    (the double centring of multidimensional scaling, Torgerson 1952). Scaled to a unit diagonal, that block has the
    eigenvalues of Diff-eRank (arXiv:2401.17139), Def. 3.1, of the subset alone.

    That is done where n <= d, so that G is at hand, the centre is the mean, and no digits are lost; otherwise the
    subset goes the way of every sample, through `mmerank.states.spectrum.spectrum`.

    Args:
        h: Hidden states, (n, d), floating point, n >= 2.
        centre: See `mmerank.states.spectrum.spectrum`.
        precision: See `mmerank.states.spectrum.spectrum`.
        pending: Their Gram matrix, where it has been asked for already, with the same choices.

    Raises:
        DegenerateTokens: Fewer than 2 tokens, or one equals the centre.
        NonFiniteTokens: `h` holds NaN or infinity.

    Attributes:
        n: Number of tokens.
        gram: Inner products of the unit rows, (n, n), or of their columns, (d, d), whichever are fewer.
        lengths: Distance of each token from the centre, up to one factor for all, (n,), float64, on the CPU.
    """

    def __init__(
        self,
        h: Tensor,
        *,
        centre: Centre = "mean",
        precision: Precision = "float64",
        pending: PendingGram | None = None,
    ):
        pending = pending or PendingGram(h, centre=centre, precision=precision)
        self.gram, lengths = pending.arrived()
        self.lengths = lengths.flatten()
        self.n = len(h)
        self._h = h.detach()
        self._centre: Centre = centre
        self._precision: Precision = precision

    @cached_property
    def spectrum(self) -> Tensor:
        """Eigenvalues of all tokens, as `mmerank.states.spectrum.spectrum` gives them."""
        return shares(self.gram)

    @cached_property
    def _inner(self) -> Tensor:
        """Inner products of the centred tokens, (n, n), float64, on the CPU."""
        of_unit = self.gram
        if len(of_unit) < self.n:  # those of the columns
            unit, _ = directions(self._h, self._centre)
            of_unit = (unit @ unit.mT).cpu()
        return of_unit * self.lengths * self.lengths[:, None]

    def entropies(self, rows: Tensor) -> Tensor:
        """Matrix entropy of each of several subsets of the tokens.

        Args:
            rows: Indices of tokens, (r, m), int64, on the CPU: r subsets of m tokens each.

        Returns:
            Entropy in nats, (r,), float64; NaN where a subset has none: fewer than 2 tokens, or one that equals
            the subset's centre.
        """
        if rows.shape[1] < 2:
            return torch.full((len(rows),), torch.nan, dtype=torch.float64)
        if self._centre != "mean" or self.n > self._h.shape[1]:
            return torch.stack([self._direct(subset) for subset in rows])
        blocks = self._inner[rows[:, :, None], rows[:, None, :]]
        before = blocks.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        of_rows = blocks.mean(dim=2, keepdim=True)
        blocks = blocks - of_rows - of_rows.mT + of_rows.mean(dim=1, keepdim=True)
        squares = blocks.diagonal(dim1=1, dim2=2).clone()
        # An entry's rounding is that of the products it is a difference of.
        magnitudes = before + before.mean(dim=1, keepdim=True)
        lost = (magnitudes.square() / squares.clamp_min(0)).amax(dim=1) * _ROUNDING[self._precision]
        exact = lost <= _TOLERANCE[self._precision]
        entropies = torch.empty(len(rows), dtype=torch.float64)
        if exact.any():
            lengths = squares[exact].sqrt()
            entropies[exact] = spectral_entropy(shares(blocks[exact] / lengths[:, :, None] / lengths[:, None, :]))
        for i in (~exact).nonzero().flatten().tolist():
            entropies[i] = self._direct(rows[i])
        return entropies

    def _direct(self, rows: Tensor) -> Tensor:
        try:
            tokens = self._h[rows.to(self._h.device)]
            return spectral_entropy(spectrum(tokens, centre=self._centre, precision=self._precision))
        except DegenerateTokens:
            return torch.tensor(torch.nan, dtype=torch.float64)

    def entropies_without_each(self) -> Tensor:
        """Matrix entropy of the others when one token is left out, for every token: n decompositions, O(n⁴).

        Without token i the others' mean is -c_i / (n - 1), so their inner products are those of all with
        a_j + a_k + b added, a_j = G_ij / (n - 1) and b = G_ii / (n - 1)². Scaled to a unit diagonal this has the
        others' spectrum; token i stays in as a row of zeros, which adds an eigenvalue of 0. Where that would cost
        digits, and of other centres or more tokens than dimensions, the others themselves are centred.

        Returns:
            Nats, (n,), float64; NaN where the others have no spectrum.
        """
        n = self.n
        plain = self._centre == "mean" and 2 < n <= self._h.shape[1]
        found = torch.full((n,), torch.nan, dtype=torch.float64)
        everyone = torch.arange(n)
        if plain:
            g = self._inner
            squared = g.diagonal().clamp_min(0)
            lengths = squared.sqrt()
        for i in range(n):
            others = everyone[everyone != i]
            if plain:
                a, b = g[i] / (n - 1), squared[i] / (n - 1) ** 2
                squares = squared + 2 * a + b
                magnitudes = (lengths + b.sqrt()).square() * _ROUNDING[self._precision]
                if bool((magnitudes <= _TOLERANCE[self._precision] * squares)[others].all()):
                    scale = squares.clamp_min(0).rsqrt()
                    scale[i] = 0
                    block = (g + a).add_(a[:, None]).add_(b).mul_(scale).mul_(scale[:, None])
                    found[i] = spectral_entropy(shares(block))
                    continue
            if n > 2:
                found[i] = self._direct(others)
        return found

    def collision_entropies_without(self) -> Tensor:
        """Rényi entropy of order 2 of the tokens without the i-th, -log Σ λ², for every i; mean-centred.

        For each i this is the squared norm of the Gram matrix of the others, and all n of them together are three
        products of (n, n) matrices: without token i the others' mean is -c_i / (n - 1), so with a_j = G_ij / (n - 1)
        and b = G_ii / (n - 1)² their inner products are G_jk + a_j + a_k + b. It says at the price of less than one
        decomposition which token to leave out and look.

        Returns:
            Nats, (n,), float64; NaN where the others have no spectrum.
        """
        g, n = self._inner, self.n
        a = g / (n - 1)
        b = g.diagonal()[:, None] / (n - 1) ** 2
        squares = g.diagonal() + 2 * a + b  # row i: squared lengths of the others when i is left out
        weights = 1 / squares.masked_fill(squares <= 0, torch.nan)
        weights.fill_diagonal_(0)
        wa = weights * a
        w, w_a, w_aa = weights.sum(1), wa.sum(1), (wa * a).sum(1)
        b = b.flatten()
        wg = weights @ g
        squared_norm = (
            ((weights @ g.square()) * weights).sum(1)
            + 2 * b * (wg * weights).sum(1)
            + 4 * (wg * wa).sum(1)
            + 2 * w * w_aa
            + 2 * w_a.square()
            + 4 * b * w * w_a
            + b.square() * w.square()
        )
        return -(squared_norm / (n - 1) ** 2).log()
