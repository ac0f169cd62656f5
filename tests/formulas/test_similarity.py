"""By brute force over pairs, triples and quadruples of rows, and by scipy's subspace angles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from mmerank.errors import NoValue, TokenAtCentre, TooFewTokens
from mmerank.formulas import similarity
from mmerank.formulas.similarity import cknna, cycle_knn, mutual_knn, rsa, svcca, unbiased_cka
from tests.formulas.clouds import Floats, plain


def states(n: int, seed: int = 0, d: int = 7, e: int = 5, shared: float = 0.7) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)) + 1, generator.normal(size=(n, e)) - 1
    y[:, :3] += shared * x[:, :3]
    return x, y


def unit(rows: Floats) -> Floats:
    return np.array([row / math.sqrt(row @ row) for row in rows])


def hsic(k: Floats, l: Floats) -> float:  # noqa: E741
    """Unbiased HSIC as the mean over tuples of different rows, which is what unbiased means."""
    n = range(len(k))
    pairs = np.mean([k[i, j] * l[i, j] for i, j in itertools.permutations(n, 2)])
    quadruples = np.mean([k[i, j] * l[q, r] for i, j, q, r in itertools.permutations(n, 4)])
    triples = np.mean([k[i, j] * l[i, q] for i, j, q in itertools.permutations(n, 3)])
    return float(pairs + quadruples - 2 * triples)


def near(rows: Floats, k: int) -> list[list[int]]:
    cosines = unit(rows) @ unit(rows).T
    return [sorted((j for j in range(len(rows)) if j != i), key=lambda j, i=i: -cosines[i, j])[:k]  # type: ignore[misc]
            for i in range(len(rows))]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_unbiased_cka_is_the_mean_over_different_rows(seed: int) -> None:
    x, y = states(8, seed)
    expected = hsic(x @ x.T, y @ y.T) / math.sqrt(hsic(x @ x.T, x @ x.T) * hsic(y @ y.T, y @ y.T))
    assert unbiased_cka(x, y) == pytest.approx(expected, rel=1e-9)
    assert unbiased_cka(x, 3 * x + 100) == pytest.approx(1)


def test_unbiased_cka_of_unrelated_states_is_0_on_average_and_the_biased_is_not() -> None:
    drawn = [states(20, seed, 60, 60, shared=0) for seed in range(200)]
    unbiased = [unbiased_cka(x, y) for x, y in drawn]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / math.sqrt(200)
    assert np.mean([similarity.linear_cka(x, y) for x, y in drawn]) > 0.6


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_by_hand(seed: int) -> None:
    x, y = states(9, seed)
    for k in (3, 5):
        of_x, of_y = near(x, k), near(y, k)
        shares = [len(set(a) & set(b)) / k for a, b in zip(of_x, of_y, strict=True)]
        assert mutual_knn(x, y, k) == pytest.approx(np.mean(shares))
        back = [any(i in of_x[j] for j in of_y[i]) for i in range(9)]
        assert cycle_knn(x, y, k) == pytest.approx(np.mean(back))

    def masked(rows: Floats, *sides: list[list[int]]) -> Floats:
        kernel = unit(rows) @ unit(rows).T
        kept = [[all(j in side[i] for side in sides) for j in range(9)] for i in range(9)]
        return np.where(np.array(kept), kernel, 0)

    of_x, of_y = near(x, 5), near(y, 5)
    across = hsic_of_masks(masked(x, of_x, of_y), masked(y, of_x, of_y))
    own = [hsic_of_masks(*[masked(z, of_z)] * 2) for z, of_z in ((x, of_x), (y, of_y))]
    assert cknna(x, y, 5) == pytest.approx(across / math.sqrt(own[0] * own[1]), rel=1e-9)
    assert cknna(x, 2 * x, 5) == pytest.approx(1) == mutual_knn(x, 2 * x, 5)


def hsic_of_masks(k: Floats, l: Floats) -> float:  # noqa: E741
    """Of kernels that are not symmetric, by the published arrangement of indices: k as it is, l turned."""
    n = range(len(k))
    pairs = np.mean([k[i, j] * l[j, i] for i, j in itertools.permutations(n, 2)])
    sums = (
        sum(k[i, j] for i, j in itertools.permutations(n, 2)),
        sum(l[i, j] for i, j in itertools.permutations(n, 2)),
    )
    through = sum(k[i, q] * l[q, j] for q in n for i in n for j in n if i != q and j != q)
    m = len(k)
    total = pairs * m * (m - 1) + sums[0] * sums[1] / ((m - 1) * (m - 2)) - 2 * through / (m - 2)
    return float(total / (m * (m - 3)))


def test_of_equal_cosines_the_earlier_row_is_nearer() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])
    assert similarity.neighbours(x, 1).tolist() == [[1], [2], [1], [1]]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_svcca_is_the_angles_between_subspaces(seed: int) -> None:
    x, y = states(40, seed, 12, 9)
    bases = []
    for z in (x, y):
        z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1)
        bases.append(np.linalg.eigh(z @ z.T)[1][:, -4:])
    expected = np.cos(scipy.linalg.subspace_angles(*bases)).mean()
    assert svcca(x, y, 4) == pytest.approx(expected, abs=1e-9)
    assert svcca(x, 5 * x - 3, 4) == pytest.approx(1)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_rsa_is_scipys_distances(seed: int) -> None:
    x, y = states(12, seed)
    assert rsa(x, y) == pytest.approx(np.corrcoef(pdist(x, "cosine"), pdist(y, "cosine"))[0, 1], abs=1e-9)
    assert rsa(x, 4 * x) == pytest.approx(1)


def test_what_has_no_value_is_said() -> None:
    x, y = states(12)
    with pytest.raises(NoValue, match="x: all 12 rows are equal"):
        similarity.linear_cka(np.ones((12, 3)), y)
    with pytest.raises(NoValue, match="y: all 12 rows have one direction"):
        mutual_knn(x, np.outer(np.arange(1.0, 13), np.ones(3)), 3)
    with pytest.raises(TokenAtCentre, match="y: row 4 \\(1 of 12\\) is zero"):
        mutual_knn(x, np.where(np.arange(12)[:, None] == 4, 0, y), 3)
    with pytest.raises(TooFewTokens, match="x and y: 12 neighbours .* at least 13 rows, got 12"):
        cknna(x, y, 12)
    with pytest.raises(TooFewTokens, match="y: 6 singular vectors need 6 independent directions"):
        svcca(x, y, 6)
    with pytest.raises(NoValue, match="x: column 2 \\(1 of 7\\) is constant"):
        svcca(np.where(np.arange(7) == 2, 0.3, x), y, 3)
    one_apart = np.where(np.arange(12)[:, None] == 5, 1.0, np.zeros((12, 2)))
    with pytest.raises(NoValue, match="x: its unbiased HSIC"):
        unbiased_cka(one_apart, y)
    with pytest.raises(NoValue, match="y: all rows have one cosine"):
        rsa(x, np.eye(12))
    with pytest.raises(TooFewTokens, match="x: expected at least 4 rows"):
        unbiased_cka(x[:3], y[:3])
    for refused in (mutual_knn, cycle_knn, cknna, svcca):
        with pytest.raises(ValueError, match="at least 1"):
            refused(x, y, 0)
    assert mutual_knn(x, plain(12, 4), 11) == 1
