"""What is particular to a family of transformers, and what the general adapter refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from mmerank import capture, load_text
from mmerank.errors import ModelError
from mmerank.models.identity import identity
from mmerank.models.loading import TextAdapter
from tests.adapters.text_cases import (
    BERT,
    LLAMA,
    OPT,
    TEXT_CASES,
    TEXTS,
    bert_tokenizer,
    gpt2_tokenizer,
    llama_tokenizer,
    noisy,
)


def saved(model: Any, folder: Path, tokenizer: Any = llama_tokenizer) -> Path:
    noisy(model).save_pretrained(folder)
    tokenizer(folder)
    return folder


def final_states(adapter: TextAdapter, text: str) -> torch.Tensor:
    ids = torch.tensor([adapter.token_ids(text)])
    with torch.no_grad():
        return adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))


def test_opt_350m_is_read_after_its_projection() -> None:
    case = next(case for case in TEXT_CASES if case.name == "opt-350m")
    assert case.adapter.model.get_submodule("model.decoder").final_layer_norm is None
    ids = torch.tensor([case.references[0].ids])
    with torch.no_grad(), capture(case.adapter.model, {"out": "model.decoder.project_out"}) as seen:
        h = case.adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))
    assert torch.equal(seen["out"], h) and h.shape[-1] == 32
    assert case.references[0].states[1].shape[-1] == 48


def test_opt_counts_positions_by_the_mask() -> None:
    """In the middle of a batch too: positions of a short text are those it has alone."""
    adapter = OPT.adapter
    (short, long) = sorted((r.ids for r in OPT.references[1:]), key=len)
    ids = torch.tensor([short + [1] * (len(long) - len(short)), long])
    mask = torch.arange(len(long))[None] < torch.tensor([[len(short)], [len(long)]])
    with torch.no_grad():
        together = adapter.forward(ids, mask)[0, : len(short)]
    assert (together - final_states(adapter, TEXTS[2])[0]).abs().max() < 1e-5


def test_weights_of_torch_save(tmp_path: Path) -> None:
    """The OPT repositories hold pytorch_model.bin."""
    folder = tmp_path / "model"
    shutil.copytree(OPT.folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert identity(load_text(folder, device="cpu"))["weights"] == identity(OPT.adapter)["weights"]


def test_a_body_saved_without_its_tied_head(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(OPT.folder)
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)
    for file in OPT.folder.iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt"):
            shutil.copy(file, folder)
    adapter = load_text(folder, device="cpu")
    assert adapter.predicts_next
    assert torch.equal(final_states(adapter, TEXTS[2]), final_states(OPT.adapter, TEXTS[2]))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("Gemma2", {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "sliding_window": 8}),
        ("Cohere", {"logit_scale": 0.3}),
        ("Granite", {"logits_scaling": 3.0}),
        ("Mistral", {"sliding_window": 8}),
        ("Olmo2", {}),
    ],
)
def test_what_stands_behind_the_head(name: str, extra: dict[str, Any], tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")(
        **LLAMA.config, **extra, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    adapter = load_text(saved(model, tmp_path), device="cpu")
    ids = torch.tensor([adapter.token_ids(TEXTS[0])])
    with torch.no_grad():
        expected = model.eval()(ids).logits
    assert (adapter.logits(final_states(adapter, TEXTS[0])) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "extra"), [("Bloom", {"n_layer": 2, "n_head": 4}), ("Falcon", {}), ("Phi", {}), ("GPTJ", {})]
)
def test_more_families(name: str, extra: dict[str, Any], tmp_path: Path) -> None:
    common = {"vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "GPTJ":
        common |= {"rotary_dim": 4}
    config = getattr(transformers, f"{name}Config")(**(common | extra), bos_token_id=1, eos_token_id=2)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    adapter = load_text(saved(model, tmp_path), device="cpu")  # compares states and logits itself
    assert len(adapter.layers) == 3 and adapter.predicts_next
    assert final_states(adapter, TEXTS[0]).isfinite().all()
    assert adapter.max_tokens > 1000


def test_a_masked_language_model_is_an_encoder(tmp_path: Path) -> None:
    """Saved with its head and without a pooler, as most BERTs are."""
    model = transformers.BertForMaskedLM(transformers.BertConfig(**BERT.config))
    adapter = load_text(saved(model, tmp_path, bert_tokenizer), device="cpu")
    assert not adapter.predicts_next and any("cls.predictions" in key for key in adapter.source["ignored"])
    ids = torch.tensor([adapter.token_ids(TEXTS[2])])
    with torch.no_grad():
        expected = model.bert(ids).last_hidden_state
    assert (final_states(adapter, TEXTS[2]) - expected).abs().max() < 1e-6


def test_a_bert_that_decodes_is_no_encoder(tmp_path: Path) -> None:
    model = transformers.BertLMHeadModel(transformers.BertConfig(**BERT.config, is_decoder=True))
    with pytest.raises(ModelError, match=r"does more to its logits|not where they are expected"):
        load_text(saved(model, tmp_path, bert_tokenizer), device="cpu")


def test_encoders_see_both_sides() -> None:
    ids = torch.tensor([BERT.references[2].ids])
    other = ids.clone()
    other[0, -2] = 9
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        assert (BERT.adapter.forward(ids, mask) - BERT.adapter.forward(other, mask))[0, 1].abs().max() > 1e-3


@pytest.mark.parametrize("name", ["Roberta", "DistilBert", "MPNet", "Electra"])
def test_other_encoders(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")(
        **{"hidden_size" if name != "DistilBert" else "dim": 32, "hidden_dim": 64, "intermediate_size": 64},
        vocab_size=120,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        pad_token_id=1 if name in ("Roberta", "MPNet") else 0,
    )
    adapter = load_text(saved(getattr(transformers, f"{name}Model")(config), tmp_path, bert_tokenizer), device="cpu")
    assert not adapter.predicts_next and len(adapter.layers) == 3
    assert adapter.max_tokens == (64 if name in ("Roberta", "MPNet") else 66)
    ids = torch.full((1, adapter.max_tokens), 7)
    with torch.no_grad():
        assert adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool)).isfinite().all()


def test_shared_blocks_cannot_be_told_apart(tmp_path: Path) -> None:
    model = transformers.AlbertModel(transformers.AlbertConfig(**BERT.config, embedding_size=16))
    with pytest.raises(ModelError, match="no list of 3 blocks"):
        load_text(saved(model, tmp_path, bert_tokenizer), device="cpu")


def test_a_family_with_states_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something between the last block and what transformers calls its states."""
    from transformers.models.llama.modeling_llama import LlamaModel

    ours = LlamaModel.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = ours(self, *args, **kwargs)
        if output.hidden_states:
            output.hidden_states = (output.hidden_states[0] * 2, *output.hidden_states[1:])
        return output

    monkeypatch.setattr(LlamaModel, "forward", changed)
    with pytest.raises(ModelError, match="hidden states are not where they are expected, in LlamaForCausalLM"):
        load_text(LLAMA.folder, device="cpu")


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("t5", "'t5' is an encoder-decoder"),
        ("vit", "cannot be loaded"),
        ("of-nobody", "not a model of transformers, whose own code is never run"),
    ],
)
def test_other_kinds_of_model(model_type: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "auto_map": {"AutoConfig": "a.B"}}))
    with pytest.raises(ModelError, match=message):
        load_text(tmp_path, device="cpu")


def test_untrained_spread_is_the_configurations() -> None:
    """`initializer_range` decides, as in `from_config` of the published code."""
    twin = LLAMA.adapter.untrained(0)
    matrices = {name: h for name, h in twin.model.state_dict().items() if h.ndim == 2}
    assert all(float(h.std()) == pytest.approx(0.02, rel=0.15) for h in matrices.values())
    assert all(torch.equal(h, torch.ones_like(h)) for name, h in twin.model.state_dict().items() if h.ndim == 1)


def test_no_merges_is_no_tokenizer(tmp_path: Path) -> None:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2))
    folder = saved(model, tmp_path, gpt2_tokenizer)
    (folder / "merges.txt").unlink()
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_text(folder, device="cpu")
