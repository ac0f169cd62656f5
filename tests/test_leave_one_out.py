"""What each token adds, against the entropies of the others by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmerank import leave_one_out, matrix_entropy
from mmerank.errors import NonFiniteTokens, TokenAtCentre, TooFewTokens
from tests import reference


def drawn(n: int, d: int, **kind: Any) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n), **kind)


SAMPLES = {
    "more dimensions": drawn(30, 64) + 3,
    "more tokens": drawn(60, 8),
    "as many": drawn(24, 24),
    "half precision": (drawn(20, 40) + 1).bfloat16(),
    "a massive token": torch.cat([drawn(40, 128), torch.full((1, 128), 1e4)]),
    "far from the origin": drawn(40, 128, dtype=torch.float64) + 1e5,
    "two groups": torch.cat([drawn(20, 64) + 10, drawn(12, 64) - 10]),
    "a repeated token": torch.cat([drawn(10, 32), drawn(10, 32)[:1].expand(6, 32)]),
    "three": drawn(3, 5),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_token_left_out_by_itself(name: str) -> None:
    h = SAMPLES[name]
    rows = h.double().numpy()
    whole = reference.entropy(rows)
    expected = [whole - reference.entropy(np.delete(rows, i, axis=0)) for i in range(len(rows))]
    assert leave_one_out(h).numpy() == pytest.approx(np.array(expected), abs=1e-9)


def test_where_the_others_have_no_entropy() -> None:
    """Without the third or the fourth of these one of the others is their mean; without the last, all are."""
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [-3.0, 0.0]])
    found = leave_one_out(line)
    assert found[:2].tolist() == pytest.approx([0, 0], abs=1e-12) and found[2:].isnan().all()  # of one line: H = 0
    found = leave_one_out(torch.tensor([[2.0, 1.0]] * 3 + [[-3.0, 0.0]]))
    assert found[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-12) and found[3:].isnan().all()
    with pytest.raises(TokenAtCentre, match="token 1 "):
        leave_one_out(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    with pytest.raises(TokenAtCentre):
        leave_one_out(torch.ones(5, 3))
    with pytest.raises(NonFiniteTokens):
        leave_one_out(torch.full((5, 3), torch.nan))


def test_signs() -> None:
    """A token in a direction of its own adds; one among many alike takes."""
    h = torch.cat([torch.eye(8)[:1].expand(12, 8) + 0.01 * drawn(12, 8), torch.eye(8)[1:]])
    found = leave_one_out(h)
    assert bool((found[:12] < 0).all()) and bool((found[12:] > 0).all())


@pytest.mark.parametrize("centre", ["median", "none"])
def test_other_centres(centre: Any) -> None:
    h = drawn(15, 30) + 2
    whole = matrix_entropy(h, centre=centre)
    for i, nats in enumerate(leave_one_out(h, centre=centre)):
        others = torch.cat([h[:i], h[i + 1 :]])
        assert float(nats) == pytest.approx(float(whole - matrix_entropy(others, centre=centre)), abs=1e-12)


def test_mixed_precision_and_few_tokens() -> None:
    h = SAMPLES["more dimensions"]
    assert torch.allclose(leave_one_out(h, precision="mixed"), leave_one_out(h), atol=2e-5)
    assert leave_one_out(drawn(2, 4)).isnan().all()
    with pytest.raises(TooFewTokens):
        leave_one_out(drawn(1, 4))
    with pytest.raises(ValueError, match=r"shape \(n, d\), got \(2, 3, 4\)"):
        leave_one_out(torch.zeros(2, 3, 4))
