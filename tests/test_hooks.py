from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mmerank import Point, capture, effective_rank
from mmerank.errors import CaptureError


@dataclass
class Output(ModelOutput):  # type: ignore[misc]
    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None


class Block(nn.Module):
    def forward(self, h: Tensor, *, scale: float = 1.0) -> Any:
        return h * scale


class Odd(nn.Module):
    """Returns what it is told to."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, hidden_states: Tensor) -> Any:
        return self.wrap(hidden_states)


class Model(nn.Module):
    def __init__(self, wrap: Any = lambda h: h) -> None:
        super().__init__()
        self.first, self.odd, self.unused = Block(), Odd(wrap), Block()

    def forward(self, h: Tensor, times: int = 1) -> None:
        for _ in range(times):
            h = self.first(h, scale=2.0)
            self.odd(hidden_states=h)


H = torch.arange(6.0).reshape(3, 2)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_inputs_and_outputs_by_path_object_and_point() -> None:
    model = Model()
    points = {
        "in": ("first", "input"),
        "out": ("first", "output"),
        "object": (model.first, "output"),
        "path": "first",
        "without first token": Point("first", "output", skip=1),
        "keyword input": ("odd", "input"),
    }
    with capture(model, points) as seen:  # type: ignore[arg-type]
        model(H)
    assert torch.equal(seen["in"], H)
    for name in ("out", "object", "path", "keyword input"):
        assert torch.equal(seen[name], 2 * H), name
    assert torch.equal(seen["without first token"], 2 * H[1:])
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda h: h,
        lambda h: (h, "cache"),
        lambda h: (None, [h]),
        lambda h: Output(loss=torch.zeros(()), last_hidden_state=h),
        lambda h: {"attentions": None, "states": h},
        lambda h: {"mask": torch.ones(3), "hidden_states": h},
    ],
)
def test_kinds_of_output(wrap: Any) -> None:
    model = Model(wrap)
    with capture(model, {"odd": "odd"}) as seen:
        model(H)
    assert torch.equal(seen["odd"], 2 * H)


def test_a_copy_is_kept_that_later_steps_cannot_change() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with capture(model, {"before": "0"}) as seen:
        model(torch.tensor([[-1.0, 1.0]]))
    assert seen["before"].tolist() == [[-1.0, 1.0]]


def test_reduce_replaces_the_states() -> None:
    model = Model()
    h = torch.randn(8, 4)
    with capture(model, {"first": "first"}, reduce=effective_rank) as seen:
        model(h)
    assert seen["first"] == effective_rank(2 * h)


def test_states_carry_no_gradient() -> None:
    model = nn.Linear(2, 2)
    with capture(nn.Sequential(model), {"linear": model}) as seen:
        pass_through = model(H)
    assert pass_through.requires_grad and not seen["linear"].requires_grad


def test_several_calls() -> None:
    model = Model()
    with capture(model, {"first": "first"}, calls=2) as seen:
        model(H, times=2)
    assert len(seen["first"]) == 2


@pytest.mark.parametrize(
    ("calls", "times", "point", "message"),
    [
        (1, 1, "unused", "'p' .output of unused. never fired"),
        (1, 2, "first", "fired more than once"),
        (2, 3, "first", "fired more than twice"),
        (3, 1, "first", "fired once, not 3 times"),
    ],
)
def test_wrong_number_of_calls(calls: int, times: int, point: str, message: str) -> None:
    model = Model()
    with pytest.raises(CaptureError, match=message), capture(model, {"p": point}, calls=calls):
        model(H, times=times)
    assert hooks(model) == 0


def test_no_tensor() -> None:
    model = Model(lambda h: ("text", 3))
    with pytest.raises(CaptureError, match="no tensor of floating point .*, which is a tuple of str, int"):
        with capture(model, {"odd": "odd"}):
            model(H)
    assert hooks(model) == 0


def test_hooks_leave_after_an_error_which_is_the_one_that_is_seen() -> None:
    model = Model()
    with pytest.raises(ZeroDivisionError), capture(model, {"first": "first", "unused": "unused"}):
        _ = 1 / 0
    assert hooks(model) == 0


def test_foreign_hooks_stay() -> None:
    model = Model()
    model.first.register_forward_hook(lambda *_: None)
    with capture(model, {"first": "first"}):
        model(H)
    assert hooks(model) == 1


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ({"p": "frist"}, LookupError, "no module 'frist'; close: 'first'"),
        ({"p": ("first", "inside")}, ValueError, "'input' or 'output', got 'inside'"),
        ({"p": nn.Linear(1, 1)}, LookupError, "Linear is not part of the model"),
    ],
)
def test_unknown_points(points: Any, error: type[Exception], message: str) -> None:
    model = Model()
    with pytest.raises(error, match=message), capture(model, {"fine": "first", **points}):
        pytest.fail("the block must not run")
    assert hooks(model) == 0


def test_calls_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"), capture(Model(), {}, calls=0):
        pytest.fail("the block must not run")


class Masked(nn.Module):
    def forward(self, *, mask: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"mask": mask, "h": x}


def test_among_several_tensors_one_must_be_named() -> None:
    model = nn.ModuleDict({"block": Masked()})
    mask = torch.ones(1, 3)
    for side in ("input", "output"):
        with pytest.raises(
            CaptureError,
            match=rf"several tensors .*{side} could be hidden states, mask, (x|h); say",
        ):
            with capture(model, {"p": ("block", side)}):
                model["block"](mask=mask, x=H)
    points = {"in": Point("block", "input", key="x"), "out": Point("block", key="h")}
    with capture(model, points) as seen:
        model["block"](mask=mask, x=H)
    assert torch.equal(seen["in"], H) and torch.equal(seen["out"], H)
    with (
        pytest.raises(CaptureError, match="no tensor named .z. .* with mask, h"),
        capture(model, {"p": Point("block", key="z")}),
    ):
        model["block"](mask=mask, x=H)
    other = Model()
    with pytest.raises(CaptureError, match="no tensor named 'z'"), capture(other, {"p": Point("first", key="z")}):
        other(H)


def test_a_named_argument_of_a_module_that_also_takes_positional_ones() -> None:
    model = Model()
    with (
        pytest.raises(CaptureError, match="no tensor named 'scale'"),
        capture(model, {"p": Point("first", "input", key="scale")}),
    ):
        model(H)


class Attention(nn.Module):
    def forward(self, position_ids: Tensor, **states: Tensor) -> Any:
        return Output(loss=torch.zeros(()), last_hidden_state=states["hidden_states"])


def test_masks_positions_and_losses_are_passed_over() -> None:
    model = nn.ModuleDict({"block": Attention()})
    with capture(model, {"in": ("block", "input"), "out": "block"}) as seen:
        model["block"](torch.arange(3)[None], attention_mask=torch.ones(1, 3), hidden_states=H)
    assert torch.equal(seen["in"], H) and torch.equal(seen["out"], H)


def test_a_module_in_two_places_is_found_under_both_names() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with capture(model, {"again": "2"}, calls=2) as seen:
        model(H)
    assert len(seen["again"]) == 2


def test_a_call_too_many_is_told_even_if_the_forward_swallows_it() -> None:
    model = Model()
    with pytest.raises(CaptureError, match="fired more than once"), capture(model, {"first": "first"}):
        with contextlib.suppress(CaptureError):
            model(H, times=2)


def test_negative_skip() -> None:
    model = Model()
    with pytest.raises(ValueError, match="skip must not be negative"), capture(model, {"p": Point("first", skip=-1)}):
        pytest.fail("the block must not run")
