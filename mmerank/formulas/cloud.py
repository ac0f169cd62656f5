"""One cloud of rows of which many metrics are taken: what they share is computed once, where one asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmerank.formulas.arrays import EPS, Floats, as_rows, centred, centred_unit_rows, unit_rows
from mmerank.formulas.geometric import OF_NEAREST, nearest
from mmerank.formulas.spectra import OF_VALUES, Form, values_of_gram
from mmerank.formulas.table import Entry

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
        if form == "centred":
            if self._known is None or self._inner is None:
                return values_of_gram(_gram(self._centred))
            return values_of_gram(self._inner)
        products = self._products
        if form == "raw":
            return values_of_gram(_gram(self._rows) if products is None else products)
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
    def _products(self) -> Floats | None:
        """Inner products of the rows as they are; None where others are fewer, or digits would be lost."""
        inner = self._inner_or_none
        if inner is None:
            return None
        middle = self._moved.mean(axis=0)
        apart = self._moved - middle
        longest = math.sqrt(np.einsum("ij,ij->i", apart, apart).max())
        if not longest > _APART:
            return None
        scale = longest**2 / np.diag(inner).max()
        mean = self._rows[0] + middle
        along = apart @ mean
        products: Floats = inner * scale + along + along[:, None] + mean @ mean
        return products

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
        return nearest(self._rows, max(min(most, len(self._h) - 1), 1), self._inner_or_none)


def _gram(rows: Floats) -> Floats:
    """Inner products of rows, or of columns, whichever are fewer."""
    products: Floats = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return products
