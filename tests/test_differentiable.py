"""The gradient by finite differences, of values that the function without gradient gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mmerank
from mmerank import effective_rank, matrix_entropy
from mmerank.convention import Centre
from mmerank.errors import NonFiniteTokens, TokenAtCentre, TooFewTokens
from tests import reference


def tokens(n: int, d: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def differences(h: Tensor, centre: Centre = "mean", step: float = 1e-5) -> Tensor:
    """Central ones, of each coordinate by itself, of the function without gradient."""
    found = torch.zeros_like(h)
    for i in range(h.numel()):
        moved = torch.zeros(h.numel(), dtype=h.dtype)
        moved[i] = step
        up, down = (effective_rank(h + sign * moved.view_as(h), centre=centre) for sign in (1, -1))
        found.view(-1)[i] = (up - down) / (2 * step)
    return found


def gradient(h: Tensor, **conventions: Any) -> Tensor:
    h = h.clone().requires_grad_()
    effective_rank(h, grad=True, **conventions).sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    return h.grad


@pytest.mark.parametrize("centre", ["mean", "median", "none"])
@pytest.mark.parametrize(("n", "d"), [(5, 9), (9, 5), (6, 6), (2, 3), (12, 1)])
def test_gradient_is_that_of_finite_differences(n: int, d: int, centre: Centre) -> None:
    h = tokens(n, d, offset=0.5)
    assert gradient(h, centre=centre).numpy() == pytest.approx(differences(h, centre).numpy(), abs=1e-6)


def test_equal_eigenvalues_have_their_gradient() -> None:
    eye = torch.eye(3, 4, dtype=torch.float64)
    h = torch.cat([eye, -eye]) + 1e-3 * tokens(6, 4)
    assert gradient(h).numpy() == pytest.approx(differences(h).numpy(), abs=1e-5)
    exact = gradient(torch.cat([eye, -eye]))  # the largest that there is: nothing leads up from it
    assert exact.numpy() == pytest.approx(np.zeros((6, 4)), abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.integers(2, 20), st.sampled_from([0.0, 1e3, 1e8]))
def test_value_is_that_without_gradient(seed: int, n: int, d: int, offset: float) -> None:
    h = tokens(n, d, seed, offset)
    assert matrix_entropy(h, grad=True).item() == pytest.approx(matrix_entropy(h).item(), rel=1e-12, abs=1e-12)
    assert effective_rank(h, grad=True).item() == pytest.approx(
        np.exp(reference.entropy((h - h[0]).numpy())), rel=1e-9
    )


@pytest.mark.parametrize("magnitude", [1e-300, 1e-30, 1e30, 1e290])
def test_gradient_is_scaled_and_the_value_is_not(magnitude: float) -> None:
    h = tokens(6, 4)
    assert effective_rank(h * magnitude, grad=True).item() == pytest.approx(effective_rank(h).item(), rel=1e-12)
    assert (gradient(h * magnitude) * magnitude).numpy() == pytest.approx(gradient(h).numpy(), rel=1e-9, abs=1e-12)


def test_gradient_is_across_scale_offset_and_rotation() -> None:
    """What does not change the number has no part in its gradient."""
    h = tokens(8, 5, offset=2.0)
    g = gradient(h)
    assert g.sum(dim=0).numpy() == pytest.approx(np.zeros(5), abs=1e-12)
    assert ((h - h.mean(dim=0)) * g).sum().item() == pytest.approx(0, abs=1e-12)
    turning = (h - h.mean(dim=0)).mT @ g
    assert turning.numpy() == pytest.approx(turning.mT.numpy(), abs=1e-12)


def test_masked_batch_equals_single_samples() -> None:
    h = torch.full((2, 7, 4), torch.nan, dtype=torch.float64)
    mask = torch.zeros(2, 7)
    for i, n in enumerate((7, 4)):
        h[i, :n], mask[i, :n] = tokens(n, 4, i), 1
    together = gradient(h, mask=mask)
    for i, n in enumerate((7, 4)):
        assert together[i, :n].numpy() == pytest.approx(gradient(tokens(n, 4, i)).numpy(), abs=1e-12)
        assert not together[i, n:].any()


def test_gradient_has_the_precision_of_the_input() -> None:
    h = tokens(6, 4).float().requires_grad_()
    effective_rank(h, grad=True).backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None and h.grad.dtype == torch.float32
    assert h.grad.numpy() == pytest.approx(gradient(h.detach().double()).numpy(), abs=1e-6)


def test_a_step_up_the_gradient_raises_the_effective_rank() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    x = tokens(20, 6).float()
    x[:, 1:] *= 0.1
    seen_values = []
    for _ in range(30):
        with mmerank.capture(model, {"h": "1"}, reduce=partial(effective_rank, grad=True), detach=False) as seen:
            model(x)
        optimiser.zero_grad()
        (-seen["h"]).backward()
        optimiser.step()
        seen_values.append(seen["h"].item())
    assert seen_values[-1] > seen_values[0] + 0.2


def test_captured_states_keep_their_gradient_only_when_asked() -> None:
    model = torch.nn.Linear(3, 3)
    for detach in (True, False):
        with mmerank.capture(model, {"h": ""}, detach=detach) as seen:
            model(torch.ones(4, 3))
        assert seen["h"].requires_grad is not detach


def test_degenerate_input_has_the_same_named_errors() -> None:
    with pytest.raises(TooFewTokens, match=r"\(1, 4\)"):
        effective_rank(tokens(1, 4), grad=True)
    with pytest.raises(TokenAtCentre, match="all 3 tokens"):
        effective_rank(torch.ones(3, 2), grad=True)
    with pytest.raises(NonFiniteTokens, match="in sample 1 of the batch"):
        effective_rank(torch.stack([tokens(3, 2), tokens(3, 2) * torch.inf]), grad=True)
    with pytest.raises(TypeError, match="got list"):
        effective_rank([[1.0]], grad=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="computed in float64, got precision='mixed'"):
        effective_rank(tokens(3, 2), precision="mixed", grad=True)
