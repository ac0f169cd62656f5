"""By torch's own losses and distances, and by scipy's generalised eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerank.errors import NoValue, TooFewTokens
from mmerank.formulas import contrastive
from mmerank.formulas.information import dime, matrix_mutual_information
from tests.formulas.clouds import Floats, plain
from tests.formulas.test_spectral import shannon


def pairs(seed: int, n: int = 15, d: int = 6) -> tuple[Floats, Floats]:
    x = plain(n, d, seed)
    return x, x + plain(n, d, seed + 1)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_losses_are_torchs(seed: int) -> None:
    x, y = pairs(seed)
    a, b = (F.normalize(torch.from_numpy(z), dim=1) for z in (x, y))
    assert contrastive.alignment(x, y) == pytest.approx((a - b).norm(dim=1).square().mean().item())
    expected = torch.pdist(b).square().mul(-2).exp().mean().log().item()
    assert contrastive.uniformity(y) == pytest.approx(expected)
    for temperature in (0.01, 0.1, 1.0):
        logits = a @ b.T / temperature
        target = torch.arange(len(x))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        assert contrastive.infonce(x, y, temperature) == pytest.approx(loss.item(), abs=1e-9)


def test_what_is_known_of_the_ends() -> None:
    x = np.eye(4)
    assert contrastive.alignment(x, 3 * x) == 0
    assert contrastive.alignment(x, -x) == 4
    assert contrastive.uniformity(np.ones((5, 3))) == 0
    assert contrastive.infonce(np.ones((5, 3)), np.ones((5, 3))) == pytest.approx(math.log(5))
    assert contrastive.infonce(x, x, 1e-4) == pytest.approx(0, abs=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 5), st.integers(1, 9))
def test_lidar_is_the_generalised_eigenvalues(seed: int, n: int, q: int, d: int) -> None:
    views = plain(n * q, d, seed).reshape(n, q, d)
    between = np.atleast_2d(np.cov(views.mean(axis=1).T))
    within = sum(np.outer(row - one.mean(axis=0), row - one.mean(axis=0)) for one in views for row in one)
    values = scipy.linalg.eigh(between, within / (n * (q - 1)) + 1e-4 * np.eye(d), eigvals_only=True)
    expected = math.exp(shannon(values[values > 1e-12 * values.max()]))
    assert contrastive.lidar(views) == pytest.approx(expected, rel=1e-6)


def test_lidar_counts_the_directions_that_set_examples_apart() -> None:
    generator = np.random.default_rng(0)
    means = np.concatenate([np.eye(4), -np.eye(4)]) @ np.eye(4, 10)
    views = means[:, None] + 1e-3 * generator.normal(size=(8, 50, 10))
    assert contrastive.lidar(views) == pytest.approx(4, rel=0.02)
    # Where views say nothing of a direction, delta alone stands there, whatever the scale.
    wide = np.concatenate([views, np.zeros((8, 50, 5))], axis=2) * 1e20
    assert contrastive.lidar(wide) == pytest.approx(4, rel=0.02)


def test_mutual_information_by_covariances() -> None:
    """Of two spaces: the joint kernel is that of the products of coordinates."""
    x, y = pairs(0)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    joint = np.einsum("ni,nj->nij", x, y).reshape(len(x), -1)
    entropies = [shannon(np.linalg.svd(z, compute_uv=False) ** 2 + 1e-300) for z in (x, y, joint)]
    expected = entropies[0] + entropies[1] - entropies[2]
    assert matrix_mutual_information(x, y) == pytest.approx(expected, rel=1e-9)
    assert matrix_mutual_information(np.eye(6), np.eye(6)) == pytest.approx(math.log(6))
    assert matrix_mutual_information(np.eye(6), np.ones((6, 2))) == pytest.approx(0, abs=1e-12)


def test_dime_is_what_a_permutation_costs() -> None:
    x, y = pairs(0, n=30)
    unrelated = [dime(plain(30, 6, 2 * i), plain(30, 6, 2 * i + 1), seed=i) for i in range(60)]
    assert abs(np.mean(unrelated)) < 4 * np.std(unrelated) / math.sqrt(60)
    assert dime(x, y, permutations=50) > 5 * np.std(unrelated)
    assert dime(x, y, seed=3) == dime(x, y, seed=3) != dime(x, y, seed=4)
    assert dime(np.eye(5), plain(5, 3)) == pytest.approx(0, abs=1e-12)  # every joint kernel is the same


def test_what_has_no_value_is_said() -> None:
    x, y = pairs(0)
    with pytest.raises(ValueError, match="x and y: expected one width"):
        contrastive.infonce(x, y[:, 1:])
    with pytest.raises(NoValue, match="views: all 4 examples have one mean"):
        contrastive.lidar(np.tile(plain(3, 2), (4, 1, 1)))
    with pytest.raises(NoValue, match="views: magnitudes above"):
        contrastive.lidar(np.full((3, 3, 3), 1e200))
    with pytest.raises(TooFewTokens, match=r"2 views of each, got shape \(4, 1, 3\)"):
        contrastive.lidar(np.ones((4, 1, 3)))
    with pytest.raises(ValueError, match=r"views: expected shape \(n, q, d\), got \(4, 3\)"):
        contrastive.lidar(np.ones((4, 3)))
    with pytest.raises(ValueError, match="t: expected"):
        contrastive.uniformity(x, 0)
    with pytest.raises(ValueError, match="temperature: expected"):
        contrastive.infonce(x, y, -1)
    with pytest.raises(ValueError, match="delta: expected"):
        contrastive.lidar(np.ones((2, 2, 2)), 0)
    with pytest.raises(ValueError, match="permutations: expected"):
        dime(x, y, permutations=0)
