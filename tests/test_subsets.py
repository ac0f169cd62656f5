from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmerank.convention import Convention
from mmerank.errors import NonFiniteTokens, TokenAtCentre, TooFewTokens
from mmerank.inputs.sequence import Role, image_places, tokens_of
from mmerank.states import spectrum as spectrum_module
from mmerank.states.reductions import RowStudy
from mmerank.states.spectrum import spectrum
from mmerank.states.token_set import TokenSet
from tests import reference


@st.composite
def token_sets(draw: st.DrawFn) -> torch.Tensor:
    """Wide and tall, steep and flat, with an offset, one massive token, a pair of equal tokens, two clusters."""
    n, d = draw(st.integers(6, 24)), draw(st.integers(3, 24))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    h = generator.normal(size=(n, d)) * np.arange(1, d + 1) ** -draw(st.floats(0, 2))
    if draw(st.booleans()):
        h[0] *= 10.0 ** draw(st.integers(1, 6))
    if draw(st.booleans()):
        h[1] = h[2]
    if draw(st.booleans()):
        h[n // 2 :] += 10.0 ** draw(st.integers(0, 6)) * generator.normal(size=d)
    # A power of two, so that adding it rounds every token to the same grid and the reference sees what we see.
    return torch.from_numpy(h + 2.0 ** draw(st.integers(0, 16)))


def subset_entropies(h: torch.Tensor, rows: torch.Tensor, **how: Any) -> NDArray[np.float64]:
    return TokenSet(h, **how).entropies(rows).numpy()


def drawn(n: int, m: int, seed: int, repeats: int = 4) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([generator.permutation(n)[:m] for _ in range(repeats)]))


def centred_by(z: NDArray[np.float64], centre: str) -> NDArray[np.float64]:
    shift = {"mean": z.mean(axis=0), "median": np.median(z, axis=0), "none": np.zeros(z.shape[1])}[centre]
    centred: NDArray[np.float64] = z - shift
    return centred


@given(token_sets(), st.integers(0, 2**31 - 1), st.data())
def test_subsets_agree_with_the_definition_applied_to_the_subset(
    h: torch.Tensor, seed: int, data: st.DataObject
) -> None:
    rows = drawn(len(h), data.draw(st.integers(3, len(h))), seed)
    expected = [reference.entropy(_shifted(h[subset].numpy())) for subset in rows]
    assert subset_entropies(h, rows) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert subset_entropies(h, rows, precision="mixed") == pytest.approx(expected, rel=2e-5, abs=2e-5)


def _shifted(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the common offset, which costs numpy's plain mean its digits."""
    shifted: NDArray[np.float64] = z - z[0]
    return shifted


@pytest.mark.parametrize("centre", ["mean", "median", "none"])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_every_centre_on_both_sides(centre: Any, shape: tuple[int, int]) -> None:
    h = torch.from_numpy(np.random.default_rng(0).normal(size=shape) + 1)
    rows = drawn(len(h), 17, seed=1)
    found = subset_entropies(h, rows, centre=centre)
    for subset, entropy in zip(rows, found, strict=True):
        z = centred_by(h[subset].numpy(), centre)
        singular = np.linalg.svd(z / np.linalg.norm(z, axis=1, keepdims=True), compute_uv=False) ** 2
        p = singular[singular > 1e-20] / singular.sum()
        assert entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-10)


@pytest.mark.parametrize(("d", "products"), [(60, 1), (20, 4)])
def test_rows_of_a_layer_take_one_product_where_the_gram_matrix_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, d: int, products: int
) -> None:
    """Rows by role are blocks of the pair's Gram matrix; a pair of more rows than its width has none."""
    made, of_smaller = [], spectrum_module.smaller_gram

    def counted(u: torch.Tensor, precision: Any) -> torch.Tensor:
        made.append(len(u))
        return of_smaller(u, precision)

    monkeypatch.setattr(spectrum_module, "smaller_gram", counted)
    h = torch.from_numpy(np.random.default_rng(0).normal(size=(31, d)))
    sequence = tokens_of([0], Role.BOS) + image_places(20) + tokens_of(range(10), Role.TEXT)
    of_roles = {"entropy_image": slice(1, 21), "entropy_text": slice(21, 31), "entropy_modality": slice(1, 31)}
    asked = RowStudy(Convention(), sequence, str, by_role=True)
    found = asked.fields(TokenSet(h), h, example="", point="", input_kind="pair")
    assert len(made) == products
    assert found == pytest.approx(
        {name: reference.entropy(h[rows].numpy()) for name, rows in of_roles.items()}, rel=1e-9
    )


@pytest.mark.parametrize("shape", [(30, 60), (60, 30)])
def test_all_rows_are_what_spectrum_gives_to_the_last_bit(shape: tuple[int, int]) -> None:
    h = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    assert torch.equal(TokenSet(h).spectrum, spectrum(h))
    everything = TokenSet(h).entropies(torch.arange(len(h))[None])
    assert everything.item() == pytest.approx(reference.entropy(h.numpy()), rel=1e-12)


def test_a_tight_cluster_far_from_the_rest_keeps_its_digits() -> None:
    """Centring the block of inner products alone would leave 6 digits here."""
    generator = np.random.default_rng(0)
    h = generator.normal(size=(40, 64))
    h[20:] += 1e5
    rows = torch.arange(20, 40)[None]
    expected = reference.entropy(_shifted(h[20:]))
    assert subset_entropies(torch.from_numpy(h), rows).item() == pytest.approx(expected, rel=1e-10)


def test_half_precision_is_widened_first() -> None:
    h = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 60)) + 8).bfloat16()
    rows = drawn(30, 9, seed=0)
    expected = [reference.entropy(h[subset].double().numpy()) for subset in rows]
    assert subset_entropies(h, rows) == pytest.approx(expected, rel=1e-10)


def test_subsets_without_a_spectrum_have_no_entropy() -> None:
    h = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 20)))
    h[:4] = h[0]
    h[6] = (h[4] + h[5]) / 2
    found = subset_entropies(h, torch.tensor([[0, 1, 2], [4, 5, 6], [0, 4, 5]]))
    assert np.isnan(found[:2]).all() and found[2] == pytest.approx(reference.entropy(h[[0, 4, 5]].numpy()))
    assert np.isnan(subset_entropies(h, torch.tensor([[3]]))).all()
    assert np.isnan(subset_entropies(h, torch.empty((1, 0), dtype=torch.long))).all()


@pytest.mark.parametrize(
    ("h", "error"),
    [
        (torch.zeros(1, 4), TooFewTokens),
        (torch.zeros(3, 4), TokenAtCentre),
        (torch.full((3, 4), torch.nan), NonFiniteTokens),
    ],
)
def test_the_whole_set_must_have_a_spectrum(h: torch.Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        TokenSet(h)


@pytest.mark.parametrize("shape", [(25, 60), (60, 25)])
def test_collision_entropies_without_each_row(shape: tuple[int, int]) -> None:
    h = np.random.default_rng(0).normal(size=shape) + 3
    h[5] *= 40
    h[6] = h[7]
    found = TokenSet(torch.from_numpy(h)).collision_entropies_without().numpy()
    expected = []
    for i in range(len(h)):
        sigma = reference.covariance(np.delete(h, i, axis=0))
        expected.append(-math.log((sigma**2).sum()))
    assert found == pytest.approx(expected, rel=1e-8)


def test_one_distribution_has_the_documented_eranks() -> None:
    """Eigenvalues ~ 1/k, d = 4096: the table in docs/tokens.md, from one matrix of inner products."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 4097, dtype=torch.float64).rsqrt()
    tokens = TokenSet(torch.randn(1024, 4096, generator=generator, dtype=torch.float64) * scale)
    for n, erank in ((16, 13.5), (128, 79), (256, 125), (576, 199), (1024, 262)):
        rows = torch.arange(n)[None]
        assert tokens.entropies(rows).exp().item() == pytest.approx(erank, rel=0.03)
