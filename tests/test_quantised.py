"""Loading in 8 or 4 bits: what is asked of transformers, what is recorded, and what is refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmerank import Example, align, diff, load, load_text
from mmerank.errors import UsageError
from mmerank.models.devices import placement
from mmerank.models.untrained import place_like
from tests.adapters.cases import examples
from tests.adapters.text_cases import OPT
from tests.conftest import GOLDEN
from tests.test_cli import HF_MODEL, failure

MINIGPT = GOLDEN / "minigpt_v2_tiny" / "minigpt_v2.yaml"
find_spec = importlib.util.find_spec


def installed(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def found(name: str, *rest: Any) -> Any:
        return (object() if there else None) if name == "bitsandbytes" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, False)
    status, line = failure("align", HF_MODEL, "--data", "demo", "--load-in", "8bit")
    assert status == 2 and "needs bitsandbytes, which is not installed" in line
    with pytest.raises(UsageError, match="needs bitsandbytes"):
        load_text(OPT.folder, load_in="4bit")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, True)
    with pytest.raises(UsageError, match="loading in 4bit needs a CUDA device, not cpu"):
        load(HF_MODEL, device="cpu", load_in="4bit")


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(UsageError, match="cannot load in '2bit'; known: 8bit, 4bit"):
        load(HF_MODEL, load_in="2bit")
    with pytest.raises(UsageError, match="MiniGPTv2 loads weights as they are"):
        load(MINIGPT, load_in="8bit")


def test_what_transformers_is_told() -> None:
    assert placement("cuda:1", None) == {} and placement("auto", None) == {"device_map": "auto"}
    for load_in, device, where in (("8bit", "cuda:1", {"": "cuda:1"}), ("4bit", "auto", "auto")):
        told = placement(device, load_in)
        assert told["device_map"] == where
        config = told["quantization_config"]
        assert (config.load_in_8bit, config.load_in_4bit) == (load_in == "8bit", load_in == "4bit")


def test_the_twin_of_a_quantised_model_is_not_quantised() -> None:
    trained, twin = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2)
    trained.half()
    trained[1].weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    placed = place_like(torch.nn.Sequential(twin, torch.nn.Linear(2, 2)), trained)
    assert {parameter.dtype for parameter in placed.parameters()} == {torch.float16}


def test_results_state_it_among_the_choices() -> None:
    pairs, texts = align(load(HF_MODEL), examples()[:2]), diff(OPT.adapter, [Example("1", None, "", "some text")])
    for result in (pairs, texts):
        assert "load_in" not in result.to_dict()["convention"]
        quantised = replace(result, source={**result.source, "load_in": "4bit"})
        assert quantised.to_dict()["convention"] == {**result.convention.to_dict(), "load_in": "4bit"}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
def test_a_quantised_model_is_measured_and_marked(load_in: str) -> None:
    adapter = load(HF_MODEL, load_in=load_in, dtype="float16")
    assert adapter.source["load_in"] == load_in
    whole, quantised = align(load(HF_MODEL), examples()), align(adapter, examples())
    assert quantised.n == 3 and quantised.erank1 == pytest.approx(whole.erank1, rel=0.2)
    assert quantised.erank1 != whole.erank1
