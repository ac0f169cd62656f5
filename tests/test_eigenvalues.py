"""Where Gram matrices are decomposed changes nothing; numpy says what their eigenvalues are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmerank.states import eigenvalues
from mmerank.states.eigenvalues import shares, shares_of
from mmerank.states.spectrum import spectrum
from tests import reference

SIZES = [2, 3, 63, 64, 65, 128, 200, 3]


def gram(k: int, *, rank: int | None = None, seed: int = 0) -> Tensor:
    """Inner products of k unit rows, of low rank if so asked."""
    rows = np.random.default_rng(seed).normal(size=(k, rank or 2 * k))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows @ rows.T)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The device's route, on the CPU; the sizes of what is decomposed, one for each group."""
    decomposed: list[int] = []

    def counted(stack: Tensor) -> Tensor:
        decomposed.append(stack.shape[-1])
        return shares(stack)

    monkeypatch.setattr(eigenvalues, "ON_DEVICE", {"cpu": range(10_000)})
    monkeypatch.setattr(eigenvalues, "shares", counted)
    return decomposed


@pytest.mark.parametrize("rank", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_device_s_route_gives_what_numpy_gives(together: list[int], rank: int | None, dtype: torch.dtype) -> None:
    grams = [gram(k, rank=rank, seed=i).to(dtype) for i, k in enumerate(SIZES)]
    found = shares_of(grams)
    assert together == [64, 128, 256]  # three calls for eight matrices
    for of, values in zip(grams, found, strict=True):
        expected = np.linalg.eigvalsh(of.double().numpy())[::-1].clip(0)
        assert values.dtype == torch.float64 and values.shape == (len(of),)
        assert values.numpy() == pytest.approx(expected / expected.sum(), rel=1e-9, abs=1e-12)


def test_the_cpu_s_route_is_each_alone_to_the_last_bit() -> None:
    grams = [gram(k, seed=i) for i, k in enumerate(SIZES)]
    for of, values in zip(grams, shares_of(iter(grams)), strict=True):
        expected = torch.linalg.eigvalsh(of).flip(0).clamp_min(0)
        assert torch.equal(values, expected / expected.sum())
    assert shares_of([]) == [] and not eigenvalues.ON_DEVICE


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 50), st.integers(1, 40))
def test_padding_changes_nothing(sizes: list[int], step: int, rank: int) -> None:
    grams = [gram(k, rank=rank, seed=i) for i, k in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(eigenvalues, "ON_DEVICE", {"cpu": range(10_000)})
        patched.setattr(eigenvalues, "STEP", step)
        padded = shares_of(grams)
    for values, alone in zip(padded, shares_of(grams), strict=True):
        assert values.numpy() == pytest.approx(alone.numpy(), abs=1e-13)


def test_spectra_of_a_batch_are_decomposed_together(together: list[int]) -> None:
    """Masked samples of several lengths, on both sides of the width, by the definition."""
    h = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 90, 70)))
    lengths = [90, 3, 64, 70, 65]
    mask = torch.arange(90) < torch.tensor(lengths)[:, None]
    found = spectrum(h, mask=mask)
    assert together == [64, 128]
    for values, sample, n in zip(found, h, lengths, strict=True):
        assert float(torch.special.entr(values).sum()) == pytest.approx(
            reference.entropy(sample[:n].numpy()), rel=1e-9
        )
        assert not values[min(n, 70) :].any()
