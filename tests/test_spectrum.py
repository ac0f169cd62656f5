from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmerank import effective_rank, matrix_entropy
from mmerank.errors import NonFiniteTokens, TokenAtCentre, TooFewTokens
from mmerank.states.spectrum import spectrum
from tests import reference

Matrices = dict[str, NDArray[Any]]


@st.composite
def token_sets(draw: st.DrawFn) -> torch.Tensor:
    """Tokens of any shape and spectrum: flat, steep or of low rank, with or without a common offset."""
    n, d = draw(st.integers(3, 24)), draw(st.integers(2, 24))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decay = np.arange(1, d + 1) ** -draw(st.floats(0, 2))
    h = generator.normal(size=(n, d)) * decay
    if draw(st.booleans()):
        h = h @ generator.normal(size=(d, d))
    return torch.from_numpy(h + draw(st.floats(-10, 10)))


def test_float64_agrees_with_golden_values_on_every_matrix(matrices: Matrices) -> None:
    for name, expected in zip(matrices["names"], matrices["f64_erank"], strict=True):
        erank = effective_rank(torch.from_numpy(matrices[f"matrix/{name}"])).item()
        assert erank == pytest.approx(expected, rel=1e-9), name


def test_mixed_agrees_with_golden_values_on_every_matrix(matrices: Matrices) -> None:
    for name, expected in zip(matrices["names"], matrices["f64_erank"], strict=True):
        erank = effective_rank(torch.from_numpy(matrices[f"matrix/{name}"]), precision="mixed").item()
        assert erank == pytest.approx(expected, rel=1e-5), name


def test_near_the_published_float32_recipe(matrices: Matrices) -> None:
    """These golden values were made by the published code."""
    for name, theirs in zip(matrices["names"], matrices["ref_f32_erank"], strict=True):
        assert effective_rank(torch.from_numpy(matrices[f"matrix/{name}"])).item() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("N1_1x16", TooFewTokens, r"got \(1, 16\)"),
        ("N0_0x16", TooFewTokens, r"got \(0, 16\)"),
        ("row_exactly_mean_5x4", TokenAtCentre, r"token \d \(1 of 5\) is equal to the mean"),
        ("all_rows_identical_6x8", TokenAtCentre, "all 6 tokens are equal to the mean"),
        ("zeros_5x5", TokenAtCentre, "all 5 tokens"),
        ("one_nan_10x8", NonFiniteTokens, "NaN or infinity in 1 of 10 tokens"),
        ("one_inf_10x8", NonFiniteTokens, "NaN or infinity in 1 of 10 tokens"),
    ],
)
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_degenerate_input_has_a_named_error(
    matrices: Matrices, name: str, error: type[Exception], message: str, precision: Any
) -> None:
    with pytest.raises(error, match=message):
        effective_rank(torch.from_numpy(matrices[f"special/{name}"]), precision=precision)


@pytest.mark.parametrize("name", ["scale_1e-30_20x32", "scale_1e25_20x32", "tokens_with_near_mean_row_30x16"])
def test_extreme_but_defined_input_follows_the_definition(matrices: Matrices, name: str) -> None:
    h = matrices[f"special/{name}"]
    expected = reference.entropy(h)
    assert matrix_entropy(torch.from_numpy(h)).item() == pytest.approx(expected, rel=1e-9)
    assert matrix_entropy(torch.from_numpy(h), precision="mixed").item() == pytest.approx(expected, rel=1e-5)


@given(token_sets())
def test_agrees_with_the_definition(h: torch.Tensor) -> None:
    assert matrix_entropy(h).item() == pytest.approx(reference.entropy(h.numpy()), abs=1e-9)


@given(token_sets())
def test_bounds(h: torch.Tensor) -> None:
    n, d = h.shape
    assert 1 - 1e-9 <= effective_rank(h).item() <= min(n - 1, d) * (1 + 1e-9)


@given(token_sets(), st.integers(0, 2**31 - 1))
def test_unchanged_by_rotation_shift_scale_order_and_repetition(h: torch.Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, d = h.shape
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=h.dtype, generator=generator)).Q
    expected = effective_rank(h).item()
    for changed in (
        h @ rotation,
        h + torch.randn(d, dtype=h.dtype, generator=generator),
        h * 1e-7,
        h[torch.randperm(n, generator=generator)],
        h.repeat(3, 1),
    ):
        assert effective_rank(changed).item() == pytest.approx(expected, rel=1e-7)


@given(st.integers(1, 20), st.integers(0, 10))
def test_signed_unit_vectors_have_their_count_as_effective_rank(k: int, extra: int) -> None:
    eye = torch.eye(k, k + extra)
    assert effective_rank(torch.cat([eye, -eye])).item() == pytest.approx(k, rel=1e-12)


@given(token_sets())
def test_gram_and_covariance_routes_agree(h: torch.Tensor) -> None:
    """Zero columns make a wide matrix of a tall one, and so send it the other way."""
    n, d = h.shape
    wide = torch.nn.functional.pad(h, (0, max(n + 1 - d, 1)))
    tall = h.repeat(d // n + 2, 1)
    assert wide.shape[0] < wide.shape[1] and tall.shape[0] > tall.shape[1]
    assert effective_rank(wide).item() == pytest.approx(effective_rank(tall).item(), rel=1e-9)


@given(token_sets())
def test_spectrum_is_a_descending_distribution(h: torch.Tensor) -> None:
    eigenvalues = spectrum(h)
    assert eigenvalues.shape == (min(h.shape),) and eigenvalues.dtype == torch.float64
    assert eigenvalues.sum().item() == pytest.approx(1, abs=1e-12)
    assert (eigenvalues >= 0).all() and (eigenvalues.diff() <= 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_batch_equals_single_samples(side: str) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(n, 12, generator=generator) for n in (5, 20, 9)]
    batch = torch.full((3, 20, 12), torch.nan)  # padding must not even be looked at
    mask = torch.zeros(3, 20)
    for i, sample in enumerate(samples):
        where = slice(0, len(sample)) if side == "right" else slice(20 - len(sample), 20)
        batch[i, where], mask[i, where] = sample, 1
    together = effective_rank(batch, mask=mask)
    assert together.tolist() == [effective_rank(sample).item() for sample in samples]


def test_batch_without_mask() -> None:
    h = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    assert effective_rank(h).tolist() == [effective_rank(sample).item() for sample in h]


def test_batch_error_names_the_sample() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with pytest.raises(TooFewTokens, match="sample 1 of the batch"):
        effective_rank(torch.randn(2, 3, 4), mask=mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_widened_before_centring(dtype: torch.dtype) -> None:
    h = (torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    assert matrix_entropy(h).item() == pytest.approx(reference.entropy(h.double().numpy()), abs=1e-10)


def test_median_resists_a_massive_activation() -> None:
    h = torch.randn(101, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = effective_rank(h, centre="median").item()
    h[0] = 0
    h[0, 3] = 1e5
    assert effective_rank(h).item() < 10
    assert effective_rank(h, centre="median").item() == pytest.approx(clean, rel=0.03)


@pytest.mark.parametrize("n", [6, 7])
def test_median_is_numpys(n: int) -> None:
    h = torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = h.numpy() - np.median(h.numpy(), axis=0)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    expected = np.sort(np.linalg.eigvalsh(u.T @ u / n))[::-1]
    assert spectrum(h, centre="median").numpy() == pytest.approx(expected, abs=1e-12)


def test_centre_none_keeps_the_offset() -> None:
    h = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) + 100
    assert effective_rank(h, centre="none").item() < 1.01 < effective_rank(h).item()
    with pytest.raises(TokenAtCentre, match=r"token 0 .* is zero"):
        effective_rank(torch.eye(3) * torch.tensor([[0.0], [1.0], [1.0]]), centre="none")


def test_an_enclosing_autocast_region_changes_nothing() -> None:
    h = torch.randn(30, 80, generator=torch.Generator().manual_seed(0))
    outside = effective_rank(h, precision="mixed")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert effective_rank(h, precision="mixed") == outside


def test_input_is_left_alone() -> None:
    h = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    before = h.detach().clone()
    assert not effective_rank(h).requires_grad
    assert torch.equal(h, before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: effective_rank(torch.ones(4, 4, dtype=torch.int64)), TypeError, "int64"),
        (lambda: effective_rank([[1.0]]), TypeError, "got list"),  # type: ignore[arg-type]
        (lambda: effective_rank(torch.ones(4)), ValueError, r"got \(4,\)"),
        (lambda: effective_rank(torch.ones(4, 3), mask=torch.ones(4)), ValueError, "mask"),
        (lambda: effective_rank(torch.ones(2, 4, 3), mask=torch.ones(2, 3)), ValueError, "mask"),
        (lambda: effective_rank(torch.ones(4, 3), centre="modal"), ValueError, "mean, median, none"),  # type: ignore[arg-type]
        (lambda: effective_rank(torch.ones(4, 3), precision="float32"), ValueError, "float64, mixed"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("offset", [1e6, 1e10, 1e13])
def test_a_large_common_offset_costs_no_digits(offset: float) -> None:
    """Of what is left in the input: the offset itself rounds it."""
    h = torch.randn(30, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    exact = h - h[0]  # without rounding, by Sterbenz
    assert matrix_entropy(h).item() == pytest.approx(reference.entropy(exact.numpy()), abs=1e-12)


def test_a_huge_constant_column_hides_nothing() -> None:
    h = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with_column = torch.cat([h, torch.full((12, 1), 1e17, dtype=torch.float64)], dim=1)
    assert effective_rank(with_column).item() == pytest.approx(effective_rank(h).item(), rel=1e-12)


def test_no_width() -> None:
    with pytest.raises(ValueError, match="width d >= 1"):
        effective_rank(torch.ones(3, 0))


def test_differences_that_overflow_float64() -> None:
    h = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = h / h.abs().max()
    huge = h * torch.finfo(torch.float64).max  # some are more apart than float64 reaches
    assert (huge - huge[0]).isinf().any()
    assert matrix_entropy(huge).item() == pytest.approx(reference.entropy(h.numpy()), rel=1e-13)


@pytest.mark.parametrize("magnitude", [1e-300, 1e-99, 1.0, 1e99, 1e300])
def test_magnitude_does_not_matter(magnitude: float) -> None:
    h = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert matrix_entropy(h * magnitude).item() == pytest.approx(reference.entropy(h.numpy()), rel=1e-13)


def test_a_token_near_the_mean_counts_and_one_that_equals_it_does_not() -> None:
    h = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    others = h - h.mean(dim=0)
    near = torch.cat([others, torch.full((1, 4), 1e-9, dtype=torch.float64)])
    assert matrix_entropy(near).item() == pytest.approx(reference.entropy(near.numpy()), abs=1e-6)
    with pytest.raises(TokenAtCentre, match=r"token 7 \(1 of 8\) is equal to the mean"):
        matrix_entropy(torch.cat([others, torch.zeros(1, 4, dtype=torch.float64)]))
