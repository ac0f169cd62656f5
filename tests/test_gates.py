"""Gates that start at zero are found in what a forward pass computes, not by names or families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmerank import align
from mmerank.jobs.doctor import examine
from mmerank.models.gates import initial_vectors, zero_gates
from mmerank.report.terminal.doctor import examination_view
from mmerank.report.terminal.intervals import plain
from tests.adapters.test_multimodal import EXAMPLES, adapter

# Of the published code of mllama: `nn.Parameter(torch.zeros(1))`, each under a tanh.
_MLLAMA = {
    "model.vision_model.gated_positional_embedding.gate",
    "model.vision_model.pre_tile_positional_embedding.gate",
    "model.vision_model.post_tile_positional_embedding.gate",
    "model.language_model.layers.1.cross_attn_attn_gate",
    "model.language_model.layers.1.cross_attn_mlp_gate",
}


class Gated(nn.Module):
    """Zeros of all kinds: those that multiply as they are or through a tanh, those that add, and 1 + a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.zeros_(self.linear.bias)
        self.gate = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.zeros(4))
        self.weight = nn.Parameter(torch.zeros(4))
        self.shift = nn.Parameter(torch.zeros(1, 1, 4))
        self.unused = nn.Parameter(torch.zeros(1))
        self.part = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x * (1.0 + self.weight) + self.shift
        x = x + self.gate.tanh() * self.linear(x)
        changed: Tensor = x + self.linear(x).mul(self.scale.view(1, -1)) * self.part
        return changed


def test_factors_of_zero_are_found_and_nothing_else() -> None:
    model = Gated()
    with torch.inference_mode(), zero_gates(model) as found:
        model(torch.ones(2, 3, 4))
    assert found == ["gate", "scale"]


def test_of_a_trained_model_it_is_what_its_twin_starts_with() -> None:
    model, initial = Gated(), {"gate": torch.zeros(1), "part": torch.zeros(4), "scale": torch.ones(4)}
    nn.init.ones_(model.gate)
    with torch.no_grad(), zero_gates(model, initial) as found:
        model(torch.ones(2, 3, 4))
    assert found == ["gate", "part"]


@pytest.mark.parametrize(("name", "expected"), [("mllama", _MLLAMA), ("gemma3", set())])
def test_doctor_and_twin_name_them(name: str, expected: set[str]) -> None:
    """Gemma's norms start at zero, too, and one is added to them."""
    of = adapter(name)
    found = examine(of, EXAMPLES)
    assert set(found.zero_gates) == expected
    assert ("these gates are zero" in plain(examination_view(found)).replace("\n", " ")) == bool(expected)
    twin = of.untrained(0)
    assert set(twin.source.get("zero_gates", ())) == expected
    result = align(twin, EXAMPLES[:1])
    assert set(result.to_dict()["source"].get("zero_gates", ())) == expected
    assert ("these gates are zero" in str(result)) == bool(expected)


def test_matrices_are_not_made_to_look_at_vectors() -> None:
    initial = initial_vectors(adapter("mllama").model)
    assert set(_MLLAMA) <= set(initial) and all(of.numel() == max(of.shape, default=1) for of in initial.values())
    assert initial_vectors(Gated()) == {}
