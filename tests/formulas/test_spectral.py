"""Against the definitions by another route: eigenvalues of covariances in place of singular values, and back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmerank
from mmerank.errors import NoValue, TokenAtCentre, TooFewTokens
from mmerank.formulas import spectral
from mmerank.formulas.table import METRICS
from tests.formulas.clouds import Floats, clouds, plain

SPECTRAL = [entry for entry in METRICS.values() if entry.kind == "spectral"]


def by_covariance(rows: Floats, *, centre: bool, unit: bool) -> Floats:
    """Singular values as roots of the eigenvalues of rows' rows, those that are rounding left out."""
    if centre:
        rows = rows - rows.mean(axis=0)
    if unit:
        rows = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    values = np.linalg.eigvalsh(rows.T @ rows)[::-1]
    return np.asarray(np.sqrt(values[values > 1e-14 * values[0]]))


def shannon(weights: Floats) -> float:
    p = weights / weights.sum()
    return -math.fsum(value * math.log(value) for value in p)


@given(clouds(least=34))
def test_each_is_its_definition_by_covariances(h: Floats) -> None:
    of_u = by_covariance(h, centre=True, unit=True)
    of_c = by_covariance(h, centre=True, unit=False)
    of_h = by_covariance(h, centre=False, unit=False)
    lam = of_u**2 / (of_u**2).sum()
    n = len(h)
    expected = {
        "erank_diff_erank": math.exp(shannon(of_u**2)),
        "erank_sigma_of_centred_unit": math.exp(shannon(of_u)),
        "erank_roy_vetterli_raw_sigma": math.exp(shannon(of_h)),
        "erank_roy_vetterli_centred_sigma": math.exp(shannon(of_c)),
        "erank_centred_not_unit_lambda": math.exp(shannon(of_c**2)),
        "matrix_entropy_uncentred_unit": shannon(by_covariance(h, centre=False, unit=True) ** 2),
        "renyi_entropy_alpha_0.5": 2 * math.log(np.sqrt(lam).sum()),
        "renyi_entropy_alpha_2.0": -math.log((lam**2).sum()),
        "participation_ratio": 1 / (lam**2).sum(),
        "stable_rank": 1 / lam.max(),
        "anisotropy_mllm_microscope": of_c.max() ** 2 / (of_c**2).sum(),
        "singular_ipr_lofi": (of_h**4).sum() / (of_h**2).sum() ** 2,
        "nuclear_norm_exact_over_n": of_u.sum() / n,
        "k_energy_90": next(k for k in range(1, len(lam) + 1) if lam[:k].sum() >= 0.9),
    }
    for name, value in expected.items():
        assert mmerank.metric(name)(h) == pytest.approx(value, rel=1e-5), name


@given(clouds())
def test_gram_and_covariance_routes_agree(h: Floats) -> None:
    """Zero columns make a wide matrix of a tall one."""
    wide = np.pad(h, ((0, 0), (0, 2 * len(h))))
    for entry in SPECTRAL:
        if entry.name.startswith(("rankme", "matrix_nuclear")):  # which see min(n, d) itself
            continue
        assert entry.function(wide) == pytest.approx(entry.function(h), rel=1e-9), entry.name


def test_fewer_rows_than_columns_is_no_matter_of_rounding() -> None:
    """One singular value of centred rows is 0 then, and must count as 0 in sums of roots too."""
    h = plain(6, 40)
    exact = np.linalg.svd(h - h.mean(axis=0), compute_uv=False)[:5]
    assert spectral.erank_centred(h) == pytest.approx(math.exp(shannon(exact)), rel=1e-12)
    u = (h - h.mean(axis=0)) / np.linalg.norm(h - h.mean(axis=0), axis=1, keepdims=True)
    of_u = np.linalg.svd(u, compute_uv=False)[:5]
    assert spectral.erank_of_sigma(h) == pytest.approx(math.exp(shannon(of_u)), rel=1e-12)
    assert spectral.renyi_entropy(h, 0.1) == pytest.approx(math.log(((of_u**2 / 6) ** 0.1).sum()) / 0.9, rel=1e-12)


@given(st.integers(1, 20))
def test_signed_unit_vectors_have_their_count_as_every_rank(k: int) -> None:
    h = np.concatenate([np.eye(k), -np.eye(k)])
    for function in (
        spectral.erank,
        spectral.erank_of_sigma,
        spectral.erank_raw,
        spectral.erank_centred,
        spectral.erank_not_unit,
        spectral.participation_ratio,
        spectral.stable_rank,
    ):
        assert function(h) == pytest.approx(k, rel=1e-12)
    assert spectral.rankme(h) == pytest.approx(k, rel=1e-5)
    assert spectral.anisotropy(h) == pytest.approx(1 / k) == spectral.inverse_participation(h)
    assert spectral.k_energy(h) == math.ceil(0.9 * k - 1e-9)
    assert spectral.k_energy(h, 1.0) == k
    # Orthogonal columns: the estimate is exact.
    assert spectral.matrix_nuclear_norm(h) == pytest.approx(math.sqrt(2 * k) * math.sqrt(k) / (2 * k) / 1)
    assert spectral.matrix_nuclear_norm(h) == pytest.approx(spectral.nuclear_norm(h))


@given(clouds())
def test_ranks_are_ordered_as_renyi_entropies_are(h: Floats) -> None:
    orders = (0.25, 0.5, 1, 2, 8, 300, math.inf)
    entropies = [spectral.renyi_entropy(h, order) for order in orders]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(entropies))
    assert math.exp(entropies[2]) == pytest.approx(spectral.erank(h))
    assert math.exp(entropies[3]) == pytest.approx(spectral.participation_ratio(h))
    assert math.exp(entropies[-1]) == pytest.approx(spectral.stable_rank(h))
    assert spectral.renyi_entropy(h, 1 + 1e-7) == pytest.approx(entropies[2], abs=1e-5)
    assert spectral.erank_of_sigma(h) >= spectral.erank(h)


@given(clouds())
def test_norms_bound_each_other(h: Floats) -> None:
    assert spectral.nuclear_norm(h) <= math.sqrt(min(h.shape) / len(h)) * (1 + 1e-12)
    tall = np.concatenate([h, plain(60, h.shape[1], 5)])
    # With all columns counted, the sum of column norms is never below the nuclear norm.
    assert spectral.matrix_nuclear_norm(tall) >= spectral.nuclear_norm(tall) * (1 - 1e-12)


def test_erank_is_the_public_function() -> None:
    h = torch.from_numpy(plain(30, 12))
    assert spectral.erank(h) == pytest.approx(mmerank.effective_rank(h).item(), rel=1e-14)
    uncentred = mmerank.matrix_entropy(h, centre="none").item()
    assert spectral.matrix_entropy_uncentred(h) == pytest.approx(uncentred, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_is_that_of_a_power_law(alpha: float) -> None:
    generator = np.random.default_rng(0)
    q = np.linalg.qr(np.concatenate([np.ones((40, 1)), generator.normal(size=(40, 25))], axis=1))[0][:, 1:]
    h = q * np.arange(1, 26) ** (-alpha / 2)  # columns orthogonal to ones: centred
    assert spectral.alpha_req(h) == pytest.approx(alpha, rel=1e-9)
    assert spectral.alpha_req(h, weighted=True) == pytest.approx(alpha, rel=1e-9)


def test_alpha_is_polyfits() -> None:
    h = plain(80, 30)
    values = np.linalg.svd(h - h.mean(axis=0), compute_uv=False)
    x, y = np.log(np.arange(3, 21)), np.log(values[2:20] ** 2)
    assert spectral.alpha_req(h) == pytest.approx(-np.polyfit(x, y, 1)[0], rel=1e-9)
    # polyfit's weights are those of the residuals, not of their squares
    expected = -np.polyfit(x, y, 1, w=np.arange(3, 21) ** -0.5)[0]
    assert spectral.alpha_req(h, weighted=True) == pytest.approx(expected, rel=1e-9)


def test_what_has_no_value_is_said() -> None:
    with pytest.raises(TooFewTokens, match=r"h: a slope over the ranks 3 to 20 needs 20 .* the centred rows have 14"):
        spectral.alpha_req(plain(15, 64))
    assert spectral.alpha_req(plain(15, 64), last=14) > 0
    with pytest.raises(NoValue, match="h: all 4 rows are equal"):
        spectral.anisotropy(np.ones((4, 3)))
    with pytest.raises(NoValue, match="h: all rows are zero"):
        spectral.rankme(np.zeros((4, 3)))
    assert spectral.erank_raw(np.ones((4, 3))) == pytest.approx(1)
    with pytest.raises(TokenAtCentre, match="all 4 tokens are equal to the mean"):
        spectral.erank(np.ones((4, 3)))
    with pytest.raises(ValueError, match="order"):
        spectral.renyi_entropy(np.eye(3), 0)
    with pytest.raises(ValueError, match="share"):
        spectral.k_energy(np.eye(3), 1.1)
    with pytest.raises(ValueError, match="ranks"):
        spectral.alpha_req(np.eye(3), first=0)
