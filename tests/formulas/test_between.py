"""MIR by scipy's matrix square root, and what is known of clouds that coincide or lie apart."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerank.errors import NoValue
from mmerank.formulas import between
from mmerank.formulas.between import Route, mir, mir_distance
from tests.formulas.clouds import Floats, plain


def frechet(a: Floats, b: Floats) -> float:
    """Of the clouds as they are."""
    s1, s2 = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(s1 @ s2)
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(s1 + s2) - 2 * np.trace(np.real(root)))


def normalised(image: Floats, text: Floats) -> tuple[Floats, Floats]:
    """What MIR does first, row by row."""
    length = np.mean([np.linalg.norm(row) for row in text])
    done = []
    for rows in (image / length, text / length):
        norms = [float(np.linalg.norm(row)) for row in rows]
        middle = sorted(norms)[(len(norms) - 1) // 2]
        median = np.array([sorted(column)[(len(rows) - 1) // 2] for column in rows.T])
        done.append(np.array([median if abs(x - middle) > 3 * np.std(norms, ddof=1) else row
                              for x, row in zip(norms, rows, strict=True)]))  # fmt: skip
    return done[0], done[1]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_both_exact_routes_are_the_matrix_square_root(seed: int, outlier: bool) -> None:
    image, text = plain(60, 6, seed, decay=0), plain(45, 6, seed + 1, decay=0)
    if outlier:
        image[7] *= 100
        text[3:5] *= 50
    expected = frechet(*normalised(image, text))
    for route in ("nuclear", "covariance"):
        assert mir_distance(image, text, route=route) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("n", "m", "d"), [(9, 7, 40), (9, 60, 20), (60, 8, 20), (50, 50, 1)])
def test_both_exact_routes_agree_where_covariances_are_singular(n: int, m: int, d: int) -> None:
    image, text = plain(n, d, 1), plain(m, d, 2)
    assert mir_distance(image, text, route="covariance") == pytest.approx(mir_distance(image, text), rel=1e-9)


def test_torchmetrics_agrees() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    import torch

    image, text = plain(60, 6, 1), plain(45, 6, 2)
    a, b = (torch.from_numpy(rows) for rows in normalised(image, text))
    expected = fid._compute_fid(a.mean(dim=0), torch.cov(a.T), b.mean(dim=0), torch.cov(b.T)).item()
    assert mir_distance(image, text) == pytest.approx(expected, rel=1e-9)


def test_the_released_recurrence_finds_the_product_and_not_its_root() -> None:
    """Where the product is well conditioned; by its trace, in exact arithmetic a fixed point from the first step."""
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(400, 4)), generator.normal(size=(300, 4)) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mir_distance(image, text, route="released")
    a, b = normalised(image, text)
    s1, s2 = np.cov(a.T), np.cov(b.T)
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    assert found == pytest.approx(apart + np.trace(s1 + s2) - 2 * np.trace(s1 @ s2), rel=1e-9)
    assert found != pytest.approx(mir_distance(image, text), rel=0.05)


def test_the_released_recurrence_says_that_it_is_rounding() -> None:
    with pytest.warns(RuntimeWarning, match="rounding"):
        mir_distance(plain(40, 20, 1, decay=2), plain(30, 20, 2, decay=2), route="released")
    with pytest.raises(NoValue, match="singular"):
        mir_distance(np.eye(3), np.eye(3), route="released")


def test_clouds_that_coincide_or_lie_apart() -> None:
    image = plain(50, 5)
    order = np.random.default_rng(0).permutation(50)
    assert mir_distance(image, image[order]) == pytest.approx(0, abs=1e-12)
    point = np.zeros((3, 2))
    text = np.array([[3.0, 4.0], [3.0, 4.0]])
    assert mir_distance(point, text) == pytest.approx(1)  # of length 5 each, divided by 5
    assert mir([(point, text), (point, text)]) == pytest.approx(math.log10(2))
    assert between.modality_gap(image, image) == 0
    assert between.modality_gap(np.array([[2.0, 0.0]]), np.array([[-7.0, 0.0]])) == 2
    assert between.cosine_of_means(np.array([[2.0, 0.0]]), np.array([[-7.0, 0.0]])) == -1
    assert between.cosine_of_means(image, 3 * image) == pytest.approx(1)


def test_each_route_of_mir_is_summed_over_layers() -> None:
    layers = [(plain(30, 4, 2 * i), plain(25, 4, 2 * i + 1)) for i in range(4)]
    routes: tuple[Route, ...] = ("nuclear", "covariance")
    for route in routes:
        expected = math.log10(sum(mir_distance(*layer, route=route) for layer in layers))
        assert mir(layers, route=route) == pytest.approx(expected)


def test_what_has_no_value_is_said() -> None:
    rows = plain(6, 3)
    with pytest.raises(NoValue, match="image: the mean of its 2 rows is zero"):
        between.cosine_of_means(np.array([[0.1, 0.7], [-0.1, -0.7]]), rows[:, :2])
    with pytest.raises(NoValue, match="text: all rows are zero"):
        mir_distance(rows, np.zeros((4, 3)))
    with pytest.raises(NoValue, match="image: its rows are more than 1e\\+70 times"):
        mir_distance(rows * 1e100, rows)
    with pytest.raises(NoValue, match="1 layers sum to 0"):
        mir([(np.ones((3, 2)), np.ones((4, 2)))])
    with pytest.raises(NoValue, match="0 layers"):
        mir([])
    with pytest.raises(ValueError, match="nuclear, covariance, released"):
        mir_distance(rows, rows, route="fast")  # type: ignore[arg-type]
