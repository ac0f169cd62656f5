"""What training wraps around a model comes off, and what is measured is the model that is trained."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from mmerank import align, capture, diff, load, wrap, wrap_text
from mmerank.errors import ModelError
from mmerank.models.wrapped import evaluated, unwrapped
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.conftest import GOLDEN
from tests.test_diff_erank import texts


class Peft(nn.Module):
    """What a model of peft shows of itself, without peft."""

    def __init__(self, model: nn.Module, kind: str = "LORA", learns_prompts: bool = False):
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})
        self.peft_config = {"default": SimpleNamespace(peft_type=kind, is_prompt_learning=learns_prompts)}

    def get_base_model(self) -> Any:
        return self.base_model["model"]


class Lora(nn.Module):
    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        found: Tensor = self.base_layer(h) + self.lora_B(self.lora_A(h))
        return found


def test_models_in_train_mode_are_given_back_as_they_were(model: Any) -> None:
    adapter = wrap_text(model, OPT.adapter.tokenizer)
    expected = diff(adapter, texts()[:3]).final.erank_trained
    model.config.dropout = 0.5
    for layer in model.model.decoder.layers:
        layer.dropout = 0.5
    model.train()
    model.model.decoder.layers[0].eval()  # as a frozen part is
    modes = [module.training for module in model.modules()]
    adapter = wrap_text(model, OPT.adapter.tokenizer)
    assert [module.training for module in model.modules()] == modes and {*modes} == {True, False}
    assert diff(adapter, texts()[:3]).final.erank_trained == expected
    assert [module.training for module in model.modules()] == modes


def test_the_last_use_of_a_model_frees_its_weights_before_a_twin_is_built(model: Any) -> None:
    expected = diff(wrap_text(model, OPT.adapter.tokenizer), texts()[:3]).to_dict()
    kinds = [(p.shape, p.dtype) for p in model.parameters()]
    held: list[int] = []
    adapter = wrap_text(model, OPT.adapter.tokenizer)
    build = adapter.untrained

    def untrained(seed: int) -> Any:
        held.append(sum(p.untyped_storage().nbytes() for p in model.parameters()))
        return build(seed)

    adapter.untrained = untrained  # type: ignore[method-assign]
    found = diff(adapter, texts()[:3], last_use=True)
    assert held == [4 * len(kinds)]  # a number for each
    assert [(p.shape, p.dtype) for p in model.parameters()] == kinds
    assert found.to_dict() == expected


@pytest.fixture
def model() -> Any:
    return transformers.OPTForCausalLM.from_pretrained(OPT.folder)


def compiled(model: Any, **settings: Any) -> Any:
    return torch.compile(model, **settings)


WRAPPERS: dict[str, Any] = {
    "bare": lambda model: model,
    "compiled": compiled,
    "DataParallel": nn.DataParallel,
    "LoRA": Peft,
    "compiled LoRA": lambda model: compiled(Peft(model)),
    "LoRA in copies, compiled": lambda model: compiled(nn.DataParallel(Peft(compiled(model)))),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_numbers_are_those_of_the_model_inside(name: str, model: Any) -> None:
    wrapped = WRAPPERS[name](model)
    assert unwrapped(wrapped) is model
    found, expected = diff(wrap_text(wrapped, OPT.adapter.tokenizer), texts()), diff(OPT.adapter, texts())
    assert (found.diff_erank, found.loss_trained) == (expected.diff_erank, expected.loss_trained)


def test_lora_is_measured_as_if_it_were_merged(model: Any) -> None:
    """Against W + BA, computed here; the twin is that of the model without."""
    torch.manual_seed(0)
    merged = copy.deepcopy(model)
    for block, other in zip(model.model.decoder.layers, merged.model.decoder.layers, strict=True):
        lora = Lora(block.self_attn.q_proj)
        nn.init.normal_(lora.lora_B.weight, std=0.3)
        block.self_attn.q_proj = lora
        other.self_attn.q_proj.weight.data += lora.lora_B.weight.data @ lora.lora_A.weight.data
    tokenizer = OPT.adapter.tokenizer
    found, expected = (diff(wrap_text(each, tokenizer), texts()) for each in (Peft(model), merged))
    assert found.diff_erank == pytest.approx(expected.diff_erank, rel=1e-6)
    assert found.loss_trained == pytest.approx(expected.loss_trained, rel=1e-6)
    assert found.final.erank_untrained == diff(OPT.adapter, texts()).final.erank_untrained
    assert abs(found.diff_erank - diff(OPT.adapter, texts()).diff_erank) > 1e-3


@pytest.mark.parametrize(("kind", "learns_prompts"), [("PROMPT_TUNING", True), ("XLORA", False), ("POLY", False)])
def test_what_by_itself_would_be_another_model(kind: str, learns_prompts: bool, model: Any) -> None:
    with pytest.raises(ModelError, match=f"'default' of peft is {kind}, which is not in the layers of the model"):
        wrap_text(Peft(model, kind, learns_prompts), OPT.adapter.tokenizer)


def test_shards_cannot_run_by_themselves(model: Any) -> None:
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(ModelError, match="the parameters of the FullyShardedDataParallel lie in shards"):
        wrap_text(FullyShardedDataParallel(), OPT.adapter.tokenizer)


def test_hooks_fire_in_what_is_compiled() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    outer = compiled(inner, backend="eager")
    with evaluated(outer), capture(inner, {"0": "0"}) as seen:
        outer(torch.ones(1, 3, 4))
    assert seen["0"].shape == (1, 3, 4)


def test_a_model_compiled_in_place_is_not_compiled_by_measuring(model: Any) -> None:
    model.compile(backend=lambda *_: pytest.fail("compiled"))
    assert diff(wrap_text(model, OPT.adapter.tokenizer), texts()).diff_erank == diff(OPT.adapter, texts()).diff_erank


def test_mixed_precision_around_changes_nothing(model: Any) -> None:
    expected = diff(OPT.adapter, texts())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = diff(wrap_text(model, OPT.adapter.tokenizer), texts())
        assert torch.is_autocast_enabled("cpu")
    assert (found.diff_erank, found.loss_trained) == (expected.diff_erank, expected.loss_trained)


def test_what_is_compiled_in_place_within_a_model_is_run_as_it_is_written() -> None:
    adapter = load(GOLDEN / "llava_tiny" / "hf_model", device="cpu")
    adapter.model.model.language_model.compile(backend=lambda *_: pytest.fail("compiled"))  # type: ignore[union-attr]
    assert align(adapter, examples()).erank5 == align(LLAVA.adapter, examples()).erank5


def test_what_is_no_processor_or_tokenizer_is_said(model: Any) -> None:
    tokenizer, llava = OPT.adapter.tokenizer, load("demo-llava").model
    for given in (None, tokenizer):
        with pytest.raises(ModelError, match=f"mine: expected the processor .* got {type(given).__name__}"):
            wrap(llava, given, name="mine")
    with pytest.raises(ModelError, match="mine: expected the tokenizer .* got NoneType"):
        wrap_text(model, None, name="mine")
    with pytest.raises(ModelError, match="mine: expected the tokenizer .*; give `processor.tokenizer`"):
        wrap_text(model, SimpleNamespace(tokenizer=tokenizer), name="mine")
