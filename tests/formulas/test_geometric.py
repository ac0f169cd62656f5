"""Against scikit-dimension and scikit-learn where they are installed, brute force, and shapes of known dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerank.errors import NoValue, TooFewTokens
from mmerank.formulas import geometric
from tests.formulas.clouds import Floats, clouds, plain


def cube(dimension: int, width: int, n: int = 1500) -> Floats:
    """Uniform in a cube that lies somehow in a space of more dimensions."""
    generator = np.random.default_rng(dimension)
    turn = np.linalg.qr(generator.normal(size=(width, width)))[0][:dimension]
    rows: Floats = generator.uniform(size=(n, dimension)) @ turn
    return rows


def sorted_distances(h: Floats) -> list[list[float]]:
    return [sorted(math.dist(a, b) for j, b in enumerate(h) if j != i) for i, a in enumerate(h)]


@settings(max_examples=30)
@given(clouds())
def test_neighbours_are_brute_force(h: Floats) -> None:
    near = sorted_distances(h)
    ratios = sorted(math.log(r[1] / r[0]) for r in near)
    n = len(ratios)
    assert geometric.twonn(h) == pytest.approx((n - 1) / math.fsum(ratios), rel=1e-9)
    pairs = [(x, -math.log(1 - (i + 1) / n)) for i, x in enumerate(ratios[: int(0.9 * n)])]
    slope = math.fsum(x * y for x, y in pairs) / math.fsum(x * x for x, _ in pairs)
    assert geometric.twonn_linear(h) == pytest.approx(slope, rel=1e-9)
    for k in (2, 10):
        each = [(k - 1) / math.fsum(math.log(r[k - 1] / r[j]) for j in range(k - 1)) for r in near]
        assert geometric.lid(h, k=k) == pytest.approx(math.fsum(each) / n, rel=1e-9)


def test_scikit_dimension_agrees() -> None:
    estimators = pytest.importorskip("skdim").id
    for h in (plain(80, 12), cube(3, 9, n=300)):
        assert geometric.twonn_linear(h) == pytest.approx(estimators.TwoNN().fit(h).dimension_, rel=1e-9)
        likelihood = estimators.TwoNN(method="mle", discard_fraction=0).fit(h).dimension_
        assert geometric.twonn(h) == pytest.approx(likelihood, rel=2 / len(h))
        levina = estimators.MLE().fit(h, n_neighbors=10, comb="mean").dimension_
        assert geometric.lid(h) == pytest.approx(levina, rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_cube_has_its_dimension(dimension: int) -> None:
    h = cube(dimension, 12)
    for estimate in (geometric.twonn(h), geometric.twonn_linear(h)):
        assert estimate == pytest.approx(dimension, rel=0.1)
    assert geometric.lid(h) == pytest.approx(dimension, rel=0.2)


@pytest.mark.parametrize("m", [3, 4, 7, 360])
def test_a_polygon_turns_by_its_angle(m: int) -> None:
    angle = 2 * math.pi * np.arange(m + 1) / m
    h = np.stack([np.cos(angle), np.sin(angle), np.full(m + 1, 5.0)], axis=1)
    assert geometric.curvature(h) == pytest.approx(2 * math.pi / m, rel=1e-9)
    assert geometric.angle_between_rows(h[:, :2]) == pytest.approx(2 * math.pi / m, rel=1e-9)


def test_straight_and_back_and_forth() -> None:
    line = np.arange(6.0)[:, None] * np.array([[0.3, -0.1, 0.7]])
    assert geometric.curvature(line + 2) == pytest.approx(0, abs=1e-7)
    assert geometric.curvature(np.array([[0.0, 1.0], [1.0, 1.0]] * 4)) == pytest.approx(math.pi, abs=1e-12)
    assert geometric.curvature(np.array([[0.0, 0], [1, 0], [2, 1e-9]])) == pytest.approx(1e-9, rel=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 8))
def test_linearity_is_the_explained_share_of_least_squares(seed: int, d: int, e: int) -> None:
    x, y = plain(40, d, seed), plain(40, e, seed + 1)
    y[:, 0] += x[:, 0]
    design = np.concatenate([np.ones((40, 1)), x], axis=1)
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    expected = 1 - (left**2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    assert geometric.linearity(x, y) == pytest.approx(expected, abs=1e-9)
    if d == e:
        share = (left**2).sum() / ((y - x - (y - x).mean(axis=0)) ** 2).sum()
        assert geometric.linearity_of_residual(x, y) == pytest.approx(1 - share, abs=1e-9)


def test_scikit_learn_agrees() -> None:
    models = pytest.importorskip("sklearn.linear_model")
    x, y = plain(60, 7), plain(60, 9, 1)
    metrics = pytest.importorskip("sklearn.metrics")
    fitted = models.LinearRegression().fit(x, y).predict(x)
    expected = metrics.r2_score(y, fitted, multioutput="variance_weighted")
    assert geometric.linearity(x, y) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.sampled_from([0.0, 1e6]))
def test_held_out_linearity_is_numpys_least_squares_on_other_rows(seed: int, d: int, offset: float) -> None:
    """With more columns than rows too, where lstsq takes the map of least norm as well."""
    x, y = plain(40, d, seed), plain(40, 4, seed + 1)
    y[:, 0] += x[:, 0]
    fit, new = slice(0, 20), slice(20, 40)
    coefficients = np.linalg.lstsq(x[fit] - x[fit].mean(axis=0), y[fit] - y[fit].mean(axis=0), rcond=None)[0]
    missed = (x[new] - x[fit].mean(axis=0)) @ coefficients + y[fit].mean(axis=0) - y[new]
    expected = 1 - (missed**2).sum() / ((y[new] - y[new].mean(axis=0)) ** 2).sum()
    x, y = (x + offset) * 1e5, y - offset
    found = geometric.linearity_held_out(x[fit], y[fit], x[new], y[new])
    assert found == pytest.approx(expected, rel=1e-4 if offset else 1e-7, abs=1e-6)


def test_held_out_linearity_does_not_flatter() -> None:
    x, y = plain(60, 25), plain(60, 10, 1)
    assert geometric.linearity(x, y) > 0.3
    assert geometric.linearity_held_out(x[:40], y[:40], x[40:], y[40:]) < 0
    mapped = x @ plain(25, 10, 2) + 3
    assert geometric.linearity_held_out(x[:40], mapped[:40], x[40:], mapped[40:]) == pytest.approx(1)
    with pytest.raises(NoValue, match="y_new: all 20 rows are equal"):
        geometric.linearity_held_out(x[:40], y[:40], x[40:], np.ones((20, 10)))
    with pytest.raises(NoValue, match="x: all 40 rows are equal"):
        geometric.linearity_held_out(np.ones((40, 25)), y[:40], x[40:], y[40:])
    with pytest.raises(ValueError, match="x_new and y_new: expected row i"):
        geometric.linearity_held_out(x[:40], y[:40], x[40:], y[41:])
    with pytest.raises(NoValue, match="x_new: its rows lie so far|x: all 40 rows are equal"):
        geometric.linearity_held_out(x[:40] * 1e-150, y[:40], x[40:] * 1e150, y[40:])


def test_a_linear_map_and_an_offset_are_linear() -> None:
    x = plain(30, 5)
    assert geometric.linearity(x, x @ plain(5, 8) + 3) == pytest.approx(1)
    noise = plain(5000, 4, 3)
    assert geometric.linearity(plain(5000, 5), noise) == pytest.approx(0, abs=0.005)


def test_a_number_that_is_1_by_construction_is_refused() -> None:
    x, y = plain(9, 8), plain(9, 8, 1)
    with pytest.raises(TooFewTokens, match="x: 9 rows of width 8 are independent .* 1 by construction"):
        geometric.linearity(x, y)
    assert geometric.linearity(plain(10, 8), plain(10, 8, 1)) < 1
    flat = np.pad(plain(9, 3), ((0, 0), (0, 20)))  # wide, but of rank 3
    assert geometric.linearity(flat, y) < 0.99


def test_what_has_no_value_is_said() -> None:
    h = plain(12, 4)
    repeated = np.concatenate([h, h[3:4]])
    for function in (geometric.twonn, geometric.twonn_linear, geometric.lid):
        with pytest.raises(NoValue, match="h: rows 3 and 12 are equal"):
            function(repeated)
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(NoValue, match="two nearest neighbours at the same distance"):
        geometric.twonn(grid)
    with pytest.raises(NoValue, match="the 2 nearest neighbours of row 0"):
        geometric.lid(grid, k=2)
    with pytest.raises(TooFewTokens, match="h: 10 neighbours of each row need at least 11 rows"):
        geometric.lid(plain(10, 3))
    with pytest.raises(NoValue, match="h: rows 1 and 2 are equal"):
        geometric.curvature(h[[0, 1, 1, 2]])
    with pytest.raises(NoValue, match="h: row 0 is zero"):
        geometric.angle_between_rows(np.eye(4)[1:] * [[0], [1], [1]])
    with pytest.raises(NoValue, match="y: all 12 rows are equal"):
        geometric.linearity(h, np.ones((12, 2)))
    with pytest.raises(NoValue, match="y - x: all 12 rows are equal"):
        geometric.linearity_of_residual(h, h)
    with pytest.raises(ValueError, match="k: expected at least 2"):
        geometric.lid(h, k=1)
    with pytest.raises(ValueError, match="discard"):
        geometric.twonn_linear(h, discard=0)
