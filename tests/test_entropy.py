from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerank.states.entropy import erank_fraction, participation_ratio, spectral_entropy, stable_rank, top_share

spectra = st.lists(st.floats(1e-6, 1), min_size=1, max_size=30).map(
    lambda values: torch.tensor(values, dtype=torch.float64) / math.fsum(values)
)


@given(st.integers(1, 50))
def test_flat_spectrum_has_its_length_as_every_rank(k: int) -> None:
    flat = torch.full((k,), 1 / k, dtype=torch.float64)
    assert spectral_entropy(flat).exp().item() == pytest.approx(k)
    assert participation_ratio(flat).item() == pytest.approx(k)
    assert stable_rank(flat).item() == pytest.approx(k)
    assert top_share(flat).item() == pytest.approx(1 / k)


@given(spectra)
def test_ranks_are_ordered_as_renyi_entropies_are(eigenvalues: torch.Tensor) -> None:
    erank = spectral_entropy(eigenvalues).exp().item()
    participation = participation_ratio(eigenvalues).item()
    stable = stable_rank(eigenvalues).item()
    assert len(eigenvalues) * (1 + 1e-9) >= erank >= participation * (1 - 1e-9)
    assert participation >= stable * (1 - 1e-9) >= 1 - 1e-8


@given(spectra, st.integers(1, 10))
def test_zeros_change_nothing(eigenvalues: torch.Tensor, zeros: int) -> None:
    longer = torch.nn.functional.pad(eigenvalues, (0, zeros))
    assert spectral_entropy(longer).item() == pytest.approx(spectral_entropy(eigenvalues).item(), abs=1e-12)


def test_batches() -> None:
    both = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert spectral_entropy(both).tolist() == pytest.approx([math.log(2), 0])


@pytest.mark.parametrize(("n", "d", "expected"), [(5, 100, 0.5), (100, 4, 0.5)])
def test_erank_fraction(n: int, d: int, expected: float) -> None:
    assert erank_fraction(2.0, n, d) == expected
