"""One cloud of rows of which many metrics are taken: what they share is computed once, where one asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmerank.formulas.arrays import EPS, Floats, as_rows, centred, centred_unit_rows, unit_rows
from mmerank.formulas.entry import Entry
from mmerank.formulas.geometric import OF_NEAREST, nearest
from mmerank.formulas.spectra import OF_VALUES, Form, roots, values_of_gram

# Rows that are nearer to their mean, as a share of the largest number among them, take no part of its inner products.
_APART = 1e-30
# Of a row's squared length, as a share of the largest, where rounding would tell.
_LONG = 1e-12


@dataclass(frozen=True)
class Known:
    """What a measurement has computed of rows that are centred by their mean and scaled to unit length, in float64.

    Attributes:
        eigenvalues: As from `mmerank.states.spectrum.spectrum`, (min(n, d),).
        gram: Inner products of the rows, (n, n), or of the columns, (d, d).
        lengths: Of the centred rows, the longest 1, (n,).
    """

    eigenvalues: Floats
    gram: Floats
    lengths: Floats


class Cloud:
    """Rows, and what several metrics take of them.

    All four spectra follow from one matrix of inner products: with c the centred rows and m their mean,
    ⟨h_i, h_j⟩ = ⟨c_i, c_j⟩ + ⟨c_i, m⟩ + ⟨c_j, m⟩ + ‖m‖², and scaled to a unit diagonal these are the products of the
    unit rows; so are distances. Where there are more rows than columns, the products of columns are taken.

    Args:
        h: Rows, (n, d), float64, n >= 1.
        known: What has been computed of them already.
    """

    def __init__(self, h: Floats, known: Known | None = None):
        self._h = h
        self._known = known
        self._values: dict[Form, Floats] = {}

    def value(self, metric: Entry) -> float:
        """One metric of the rows.

        Args:
            metric: That takes one cloud.

        Returns:
            The number.

        Raises:
            NoSpectrum: There is none; says why.
        """
        if metric.name in OF_VALUES:
            form, function = OF_VALUES[metric.name]
            return function(self._of(form))
        if metric.name in OF_NEAREST:
            k, function = OF_NEAREST[metric.name]
            return function(self._near(k))
        return metric.function(self._h)

    def _of(self, form: Form) -> Floats:
        """Singular values of the rows in one of their forms."""
        if form not in self._values:
            self._values[form] = self._singular_values(form)
        return self._values[form]

    def _singular_values(self, form: Form) -> Floats:
        n = len(self._h)
        if form == "centred unit":
            if self._known is not None:
                shares = self._known.eigenvalues
                return np.sqrt(np.where(shares > shares[0] * len(shares) * EPS, shares * n, 0.0))
            return values_of_gram(_gram(centred_unit_rows(self._rows)))
        if form in ("raw", "centred") and (both := self._raw_and_centred) is not None:
            return both[form == "centred"]
        if form == "centred":
            return values_of_gram(_gram(self._centred))
        products = self._products
        if form == "raw":
            return values_of_gram(_gram(self._rows))
        if products is None or not (squares := np.diag(products)).min() > _LONG * squares.max():
            return values_of_gram(_gram(unit_rows(self._rows, "h")))
        lengths = np.sqrt(squares)
        return values_of_gram(products / lengths / lengths[:, None])

    @cached_property
    def _rows(self) -> Floats:
        return as_rows(self._h)

    @cached_property
    def _centred(self) -> Floats:
        return centred(self._rows)

    @cached_property
    def _inner(self) -> Floats | None:
        """Inner products of the centred rows, up to a factor; None where those of the columns are fewer."""
        if len(self._h) > self._h.shape[1]:
            return None
        if self._known is not None:
            return self._known.gram * self._known.lengths * self._known.lengths[:, None]
        return _gram(self._centred)

    @cached_property
    def _raw_and_centred(self) -> tuple[Floats, Floats] | None:
        """Singular values of the rows as they are and centred, by one reduction; None where digits would be lost.

        With m the mean, and in a basis whose first direction is that of m, or among rows that of (1, .., 1), both
        matrices of inner products are one but for the first row and column. They become tridiagonal together by
        reflections that leave that direction alone, and the rest, O(n²), is done for each.
        """
        if self._apart is None:
            return None
        apart, mean, n = self._apart, self._mean, len(self._rows)
        if self._inner is None:
            length = math.sqrt(mean @ mean)
            matrix = apart.T @ apart
            if length:
                matrix = _reflected(matrix, mean / length)
            diagonal, beside = _tridiagonal(matrix)
            raw = diagonal.copy()
            raw[0] += n * length**2
            return _roots(raw, beside), _roots(diagonal, beside)
        ones = np.full(n, 1 / math.sqrt(n))
        matrix = _reflected(self._inner * self._scale, ones)
        along = _reflect(apart @ mean, ones)
        matrix[1:, 0] = matrix[0, 1:] = -math.sqrt(n) * along[1:]
        matrix[0, 0] = n * (mean @ mean)
        diagonal, beside = _tridiagonal(matrix)
        return _roots(diagonal, beside), np.append(_roots(diagonal[1:], beside[1:]), 0.0)

    @cached_property
    def _products(self) -> Floats | None:
        """Inner products of the rows as they are; None where others are fewer, or digits would be lost."""
        if self._apart is None or self._inner is None:
            return None
        along = self._apart @ self._mean
        products: Floats = self._inner * self._scale + along + along[:, None] + self._mean @ self._mean
        return products

    @cached_property
    def _apart(self) -> Floats | None:
        """The rows minus their mean, on the scale of the rows; None where their squares would lose digits."""
        apart: Floats = self._moved - self._moved.mean(axis=0)
        return apart if math.sqrt(np.einsum("ij,ij->i", apart, apart).max()) > _APART else None

    @property
    def _mean(self) -> Floats:
        mean: Floats = self._rows[0] + self._moved.mean(axis=0)
        return mean

    @property
    def _scale(self) -> float:
        """What takes the inner products of the centred rows to the scale of the rows."""
        assert self._inner is not None
        assert self._apart is not None
        return float(np.einsum("ij,ij->i", self._apart, self._apart).max() / np.diag(self._inner).max())

    @property
    def _inner_or_none(self) -> Floats | None:
        return self._inner if self._known is not None or self._moved.any() else None

    @cached_property
    def _moved(self) -> Floats:
        """The rows minus the first of them, so that an offset that all share costs no digits."""
        moved: Floats = self._rows - self._rows[:1]
        return moved

    def _near(self, k: int) -> Floats:
        """Distances to the nearest rows, (n, k)."""
        return self._nearest[:, :k] if k <= self._nearest.shape[1] else nearest(self._rows, k)

    @cached_property
    def _nearest(self) -> Floats:
        """The same for the largest k that any metric takes, or as many as there are."""
        most = max(k for k, _ in OF_NEAREST.values())
        inner = self._inner_or_none
        if inner is None and self._apart is not None:  # of more rows than columns, products of rows all the same
            inner = self._apart @ self._apart.T
        return nearest(self._rows, max(min(most, len(self._h) - 1), 1), inner)


def _reflect(x: Floats, direction: Floats) -> Floats:
    """A vector behind the reflection that takes a unit vector to -e1 or e1, whichever is farther."""
    v = direction.copy()
    v[0] += math.copysign(1.0, v[0])
    reflected: Floats = x - v * (2 * (v @ x) / (v @ v))
    return reflected


def _reflected(matrix: Floats, direction: Floats) -> Floats:
    """A symmetric matrix in the basis behind the same reflection, on both sides."""
    v = direction.copy()
    v[0] += math.copysign(1.0, v[0])
    v *= math.sqrt(2 / (v @ v))
    p = matrix @ v
    p -= v * (0.5 * (v @ p))
    turned: Floats = matrix - np.outer(v, p) - np.outer(p, v)
    return turned


def _tridiagonal(matrix: Floats) -> tuple[Floats, Floats]:
    """Diagonal and what stands beside it of a similar tridiagonal matrix, by reflections that leave e1 alone."""
    from scipy.linalg.lapack import dsytrd, dsytrd_lwork

    room, _ = dsytrd_lwork(len(matrix), lower=1)
    # Symmetric, so the transposed one is the same in the order that LAPACK has.
    _, diagonal, beside, _, _ = dsytrd(matrix.T, lower=1, lwork=int(room), overwrite_a=1)
    return diagonal, beside


def _roots(diagonal: Floats, beside: Floats) -> Floats:
    """Singular values from a tridiagonal matrix of inner products, as `values_of_gram` has them."""
    from scipy.linalg import eigvalsh_tridiagonal

    if not len(diagonal):
        return np.zeros(0)
    return roots(np.asarray(eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf"), dtype=np.float64))


def _gram(rows: Floats) -> Floats:
    """Inner products of rows, or of columns, whichever are fewer."""
    products: Floats = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return products
