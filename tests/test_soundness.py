"""What a checkpoint holds is used, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmerank import Example, align, diff, load, load_text
from mmerank.errors import DataError, ModelError
from mmerank.jobs.doctor import examine
from mmerank.models.loading import TextAdapter
from tests.adapters.cases import examples
from tests.adapters.text_cases import BERT, GPT2, LLAMA, OPT, bert_tokenizer, llama_tokenizer, noisy
from tests.conftest import GOLDEN

LLAVA = GOLDEN / "llava_tiny" / "hf_model"
QUERY = "model.layers.0.self_attn.q_proj"
Weights = dict[str, Tensor]


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    return folder


def changed(folder: Path, change: Callable[[Weights], Any], name: str = "model.safetensors") -> Path:
    """The checkpoint with other weights in its file."""
    weights = load_file(folder / name)
    other = change(weights)
    weights = other if isinstance(other, dict) else weights
    save_file(weights, folder / name, metadata={"format": "pt"})
    return folder


def stated(folder: Path, name: str = "config.json", **values: Any) -> Path:
    """The checkpoint with other values in a JSON file; `None` takes a key out."""
    content = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return copied(LLAMA.folder, tmp_path / "llama")


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    return copied(LLAVA, tmp_path / "llava")


def text(folder: Path) -> TextAdapter:
    return load_text(folder, device="cpu")


def same_weights(adapter: TextAdapter, other: TextAdapter) -> bool:
    ours, theirs = adapter.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(h, theirs[name]) for name, h in ours.items())


def add(**tensors: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {key.replace("__", "."): h for key, h in tensors.items()}


def narrowed(dtype: torch.dtype, scale: str | None) -> Callable[[Weights], Weights]:
    """Weights of the blocks in 8 bits, each with its scale beside it."""

    def change(weights: Weights) -> Weights:
        found = dict(weights)
        for key, h in weights.items():
            if "layers" in key and h.ndim == 2:
                found[key] = (h * 100).to(dtype)
                if scale:
                    found[f"{key}{scale}"] = torch.full((1,), 0.01)
        return found

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add(**{f"{QUERY}.lora_A.default.weight": torch.ones(4, 32)}), "1 weights are not understood .*merge it"),
        (add(**{f"{QUERY}.lora_B.weight": torch.ones(32, 4)}), "1 weights are not understood .*merge it"),
        (add(**{f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(32)}), "merge it"),
        (add(**{f"{QUERY}.bias": torch.ones(32)}), r"q_proj\.bias\); without them it would be another model"),
        (add(**{"model.layers.3.mlp.up_proj.weight": torch.ones(48, 32)}), r"layers\.3.* another model"),
        (add(**{f"{QUERY}.weight_scale": torch.ones(1)}), "scales of quantised weights"),
        (add(**{"score.weight": torch.ones(2, 32)}), "the head of a model for another task"),
        (add(**{"v_head.summary.weight": torch.ones(1, 32)}), "the head of a model for another task"),
        (add(**{"model.attention.bias": torch.ones(32)}), "another model"),  # no mask, by its shape
        (narrowed(torch.float8_e4m3fn, "_scale_inv"), "21 weights are stored as F8_E4M3 .*no quantization_config"),
        (narrowed(torch.float8_e5m2, None), "21 weights are stored as F8_E5M2"),
        (narrowed(torch.int8, "_scale"), "21 weights are stored as I8"),
        (narrowed(torch.int32, None), "21 weights are stored as I32"),
        (narrowed(torch.uint8, None), "21 weights are stored as U8"),
        (add(**{"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "1 weights are stored as I8"),
        (add(**{"model.norm.weight": torch.ones(32).to(torch.float8_e4m3fn)}), "1 weights are stored as F8_E4M3"),
        (add(**{f"{QUERY}.bias": torch.ones(32, dtype=torch.int16)}), "1 weights are stored as I16"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_weights_that_nothing_uses(
    llama: Path, change: Callable[[Weights], Weights], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        text(changed(llama, change))
    # The same from a file of torch.save.
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=message.replace("F8_E", ".*8_e").replace("I8", "int8")[:24]):
        text(llama)


def test_what_is_computed_may_be_in_the_file(llama: Path) -> None:
    before = text(llama)
    computed = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.embeddings.position_ids": torch.arange(9)[None],
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e9),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    }
    after = text(changed(llama, add(**computed)))
    assert same_weights(after, before) and after.source["ignored"] == sorted(computed)


def test_a_lora_that_the_class_would_drop_is_seen(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers leaves out of its report is stated, and is no place to hide in."""
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"^mtp.*"])
    assert text(changed(llama, add(**{"mtp.norm.weight": torch.ones(3)}))).source["ignored"] == ["mtp.norm.weight"]
    with pytest.raises(ModelError, match=r"mtp\.lora_A\.weight"):
        text(changed(llama, add(**{"mtp.lora_A.weight": torch.ones(3)})))


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod."])
def test_names_with_another_prefix(llama: Path, prefix: str) -> None:
    with pytest.raises(ModelError, match=r"weights are not in the checkpoint .*random; \d+ of it are not understood"):
        text(changed(llama, lambda weights: {f"{prefix}{key}": h for key, h in weights.items()}))


def test_another_shape(llama: Path) -> None:
    with pytest.raises(
        ModelError, match=r"1 weights have another shape .*q_proj\.weight is \(16, 32\), expected \(32, 32\)"
    ):
        text(changed(llama, add(**{f"{QUERY}.weight": torch.ones(16, 32)})))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(llama: Path, llava: Path, tmp_path: Path, value: float) -> None:
    def spoil(weights: Weights) -> None:
        weights[next(key for key in weights if key.endswith("layers.1.mlp.up_proj.weight"))][3, 4] = value

    with pytest.raises(ModelError, match=r"1 weights hold NaN or infinity in float32 .*layers\.1\.mlp\.up_proj"):
        text(changed(llama, spoil))
    with pytest.raises(ModelError, match=r"1 weights hold NaN or infinity in float32 .*layers\.1\.mlp\.up_proj"):
        load(changed(llava, spoil), device="cpu")
    openelm = copied(GOLDEN / "openelm_tiny", tmp_path / "openelm")
    file = next(path.name for path in openelm.glob("*.safetensors"))
    with pytest.raises(ModelError, match="weights hold NaN or infinity"):
        text(changed(openelm, lambda w: next(h for h in w.values() if h.ndim == 2).fill_(value), file))


def test_values_too_large_for_the_dtype(llama: Path) -> None:
    changed(llama, lambda weights: weights[f"{QUERY}.weight"].mul_(1e9))
    assert text(llama).model is not None
    with pytest.raises(ModelError, match="infinity in float16.*--dtype"):
        load_text(llama, device="cpu", dtype="float16")


def test_an_adapter_beside_weights_and_one_alone(llama: Path, llava: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 4, "target_modules": ["q_proj"]}
    for folder, loader in ((llama, load_text), (llava, load)):
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        with pytest.raises(ModelError, match=r"adapter_config\.json\) lies beside the weights.*merge"):
            loader(folder, device="cpu")
        (folder / "config.json").unlink()
        with pytest.raises(ModelError, match="adapter.*merge"):
            loader(folder, device="cpu")


def test_two_sets_of_weights(llama: Path) -> None:
    """transformers takes the single file and says nothing of the shards."""
    weights = load_file(llama / "model.safetensors")
    save_file(weights, llama / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index: dict[str, Any] = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="two sets of weights, model.safetensors and model-00001"):
        text(llama)
    (llama / "model.safetensors").unlink()
    assert text(llama).source["ignored"] == []


def test_a_shard_that_the_index_does_not_list(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    for i, part in enumerate((weights, {"more.weight": torch.ones(3)}), 1):
        save_file(part, llama / f"model-0000{i}-of-00002.safetensors", metadata={"format": "pt"})
    index: dict[str, Any] = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00002.safetensors")}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="two sets of weights.*model-00002-of-00002"):
        text(llama)
    index["weight_map"]["more.weight"] = "model-00002-of-00002.safetensors"
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"1 weights are not understood \(first: more\.weight"):
        text(llama)
    # The same name twice: the last file would win.
    other = {QUERY + ".weight": weights[QUERY + ".weight"] + 1}
    save_file(other, llama / "model-00002-of-00002.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj\.weight stands in model-00001-of-00002\.safetensors too"):
        text(llama)


def test_a_weight_under_two_names(llama: Path, llava: Path, tmp_path: Path) -> None:
    """transformers renames both to the same, and takes the first of them."""
    bert, gpt2 = (copied(case.folder, tmp_path / case.name) for case in (BERT, GPT2))
    for loader, folder, key, other in (
        (load_text, llama, f"{QUERY}.weight", QUERY.removeprefix("model.") + ".weight"),
        (load_text, gpt2, "transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        (load_text, bert, "encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"),
        (load_text, bert, "encoder.layer.1.output.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.gamma"),
        (
            load,
            llava,
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
    ):
        weights, before = load_file(folder / "model.safetensors"), loader(folder, device="cpu").model.state_dict()
        changed(folder, add(**{other: weights[key].clone()}))
        after = loader(folder, device="cpu").model.state_dict()
        assert all(torch.equal(h, after[name]) for name, h in before.items())
        changed(folder, add(**{other: -weights[key]}))
        with pytest.raises(ModelError, match="stands there twice with different values, as .* and as"):
            loader(folder, device="cpu")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_beside_a_file_of_torch_save(llama: Path) -> None:
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").rename(llama / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="holds weights that nothing reads"):
        text(llama)


@pytest.mark.parametrize(
    "name",
    [
        "extra.safetensors",
        "adapter_model.safetensors",
        "non_lora_trainables.bin",
        "mm_projector.bin",
        "value_head.bin",
        "lora.pt",
        "vision_tower.pth",
        "ema.ckpt",
    ],
)
def test_weights_in_files_that_nothing_reads(llama: Path, name: str) -> None:
    save_file({"a": torch.ones(2)}, llama / name)
    with pytest.raises(ModelError, match=name):
        text(llama)


@pytest.mark.parametrize(
    "name", ["consolidated.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "model.pt", "tf_model.h5"]
)
def test_copies_are_stated(llama: Path, name: str, tmp_path: Path) -> None:
    copy = load_file(llama / "model.safetensors")
    if "fp16" in name:
        copy = {key: h.half() for key, h in copy.items()}
    save = save_file if name.endswith("safetensors") else torch.save
    save(copy, llama / name)
    assert text(llama).source["unread"] == [name]
    openelm = copied(GOLDEN / "openelm_tiny", tmp_path / "openelm")
    save(copy, openelm / name)
    assert text(openelm).source["unread"] == [name]
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    save({}, tiny / "llama_base" / name)
    assert load(tiny / "minigpt_v2.yaml", device="cpu").source["llama_model"]["unread"] == [name]
    copy[f"{QUERY}.weight"] = copy[f"{QUERY}.weight"] * 1.01
    save(copy, llama / name)
    with pytest.raises(ModelError, match=rf"{name} is no copy of model\.safetensors: {QUERY}\.weight has other"):
        text(llama)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"])
def test_what_trainers_save_holds_no_weights(llama: Path, name: str) -> None:
    torch.save({"state": {0: torch.ones(2)}}, llama / name)
    assert "unread" not in text(llama).source


@pytest.mark.parametrize("cut", [0, 100])
def test_a_damaged_file_is_named(llama: Path, llava: Path, tmp_path: Path, cut: int) -> None:
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    for folder, loader, model in (
        (llama, load_text, llama),
        (llava, load, llava),
        (tiny / "llama_base", load, tiny / "minigpt_v2.yaml"),
    ):
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(ModelError, match=r"cannot be loaded \(.+\)"):
            loader(model, device="cpu")


def test_a_head_beside_a_tied_embedding(tmp_path: Path) -> None:
    folder = copied(OPT.folder, tmp_path / "opt")
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.decoder.embed_tokens.weight"]
    expected = text(folder)
    changed(folder, add(**{"lm_head.weight": embedding.clone()}))
    assert same_weights(text(folder), expected)  # as every file of torch.save has it
    changed(folder, add(**{"lm_head.weight": embedding + 1}))
    with pytest.raises(ModelError, match="a head of its own with other values"):
        text(folder)


def test_a_head_that_is_missing(llama: Path) -> None:
    with pytest.raises(ModelError, match=r"1 weights are not in the checkpoint \(first: lm_head\.weight\)"):
        text(changed(llama, lambda weights: {k: h for k, h in weights.items() if k != "lm_head.weight"}))


def test_heads_of_encoders(tmp_path: Path) -> None:
    """What predicts tokens is left out and stated; what was trained for another task is another model."""
    for name, folder in (("BertForPreTraining", tmp_path / "a"), ("BertForSequenceClassification", tmp_path / "b")):
        noisy(getattr(transformers, name)(transformers.BertConfig(**BERT.config))).save_pretrained(folder)
        bert_tokenizer(folder)
    assert "cls.seq_relationship.weight" in text(tmp_path / "a").source["ignored"]
    with pytest.raises(ModelError, match=r"2 weights .*classifier\.bias.* another task"):
        text(tmp_path / "b")
    deberta = {"lm_predictions.lm_head.dense.weight": torch.ones(2, 2), "mask_predictions.dense.bias": torch.ones(2)}
    assert deberta.keys() < set(text(changed(tmp_path / "a", add(**deberta))).source["ignored"])


def test_masks_of_old_layouts(tmp_path: Path) -> None:
    """GPT-2 as it was published, without the body's prefix, and GPT-NeoX."""
    gpt2 = noisy(
        transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=640))
    )
    neox = noisy(transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**{**BERT.config, "vocab_size": 640})))
    for model, attention in ((gpt2, "h.{}.attn"), (neox, "gpt_neox.layers.{}.attention")):
        folder = tmp_path / attention[:2]
        model.save_pretrained(folder)
        llama_tokenizer(folder)
        changed(folder, add(**{f"{attention.format(0)}.bias": torch.ones(32)}))
        with pytest.raises(ModelError, match=r"\.bias\); without them it would be another model"):
            text(folder)  # no mask, by its shape
        masks = {}
        for i in range(2):
            masks[f"{attention.format(i)}.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.bool)
            masks[f"{attention.format(i)}.masked_bias"] = torch.tensor(-1e9)
        changed(folder, lambda w: {key.removeprefix("transformer."): h for key, h in w.items()})
        changed(folder, add(**masks))
        adapter = text(folder)
        assert adapter.source["ignored"] == sorted(masks)
        assert all(torch.equal(h, model.state_dict()[name]) for name, h in adapter.model.state_dict().items())


def test_llava_and_minigpt_have_the_same_rule(llava: Path, tmp_path: Path) -> None:
    shutil.copy(llava / "model.safetensors", llava / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="two sets of weights"):
        load(llava, device="cpu")
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    changed(tiny / "llama_base", add(**{f"{QUERY}.lora_A.weight": torch.ones(4, 64)}))
    with pytest.raises(ModelError, match="1 weights are not understood .*merge it"):
        load(tiny / "minigpt_v2.yaml", device="cpu")
    (tiny / "llama_base" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter_config\.json\) lies beside"):
        load(tiny / "minigpt_v2.yaml", device="cpu")
    (tiny / "llama_base" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"llama_base: an adapter \(adapter_config\.json\) .*not a whole model"):
        load(tiny / "minigpt_v2.yaml", device="cpu")


def test_a_model_declared_quantised_is_left_to_transformers(llama: Path) -> None:
    """Whatever comes of it here, it is not said to be undeclared."""
    stated(changed(llama, narrowed(torch.int8, "_scale")), quantization_config={"quant_method": "of-nobody"})
    with pytest.raises(ModelError) as raised:
        text(llama)
    assert "no quantization_config" not in str(raised.value)


@pytest.mark.parametrize("method", ["fp8", "modelopt", "of-nobody"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_by_declaration_and_without_scales(
    llama: Path, llava: Path, tmp_path: Path, method: str, dtype: torch.dtype
) -> None:
    """transformers casts them, and warns of a method that it does not know."""
    declared: dict[str, Any] = {"quant_method": method}
    stated(changed(llama, narrowed(dtype, None)), quantization_config=declared)
    content = json.loads((llava / "config.json").read_text())
    content["text_config"]["quantization_config"] = declared
    stated(changed(llava, narrowed(dtype, None)), **content)
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    stated(changed(tiny / "llama_base", narrowed(dtype, None)), quantization_config=declared)
    openelm = copied(GOLDEN / "openelm_tiny", tmp_path / "openelm")
    file = next(path.name for path in openelm.glob("*.safetensors"))
    stated(changed(openelm, narrowed(dtype, None), file), quantization_config=declared)
    for loader, model in (
        (load_text, llama),
        (load_text, openelm),
        (load, llava),
        (load, tiny / "minigpt_v2.yaml"),
    ):
        with pytest.raises(ModelError, match=r"weights are stored as .*, but the checkpoint has no scales for them"):
            loader(model, device="cpu")


def test_scales_that_are_applied(llama: Path) -> None:
    expected = {key: h for key, h in text(llama).model.state_dict().items() if "proj" in key}

    def narrow(weights: Weights) -> Weights:
        found = dict(weights)
        for key in expected:
            scale = weights[key].abs().max() / 400
            found[key] = (weights[key] / scale).to(torch.float8_e4m3fn)
            found[f"{key}_scale_inv"] = scale.reshape(1, 1)
        return found

    stated(changed(llama, narrow), quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    found = text(llama).model.state_dict()
    # A float of 8 bits has 3 behind the first.
    assert all(torch.allclose(found[key].float(), h, rtol=2**-4, atol=1e-3) for key, h in expected.items())


def test_a_mixture_of_families(tmp_path: Path) -> None:
    """Sound checkpoints of many families are not refused."""
    common = {"vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    for name, extra in {
        "Llama": more,
        "Mistral": more,
        "Qwen2": more | {"tie_word_embeddings": True},
        "Qwen3": more,
        "Gemma": more,
        "Gemma2": more,
        "Phi3": more,
        "Olmo2": more,
        "GPTNeoX": {"intermediate_size": 48},
        "GPT2": {},
        "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
        "Bloom": {},
        "Falcon": {},
        "StableLm": more,
        "Qwen2Moe": more | {"moe_intermediate_size": 16, "num_experts": 4, "shared_expert_intermediate_size": 16},
        "Mixtral": more | {"num_local_experts": 4},
    }.items():
        config = getattr(transformers, f"{name}Config")(**common, **extra)
        kind = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
        folder = tmp_path / name
        noisy(getattr(transformers, kind)(config)).save_pretrained(folder)
        llama_tokenizer(folder)
        assert text(folder).source["ignored"] == [], name


def test_llava_needs_its_bos(llava: Path) -> None:
    stated(llava, "tokenizer_config.json", bos_token=None)
    with pytest.raises(ModelError, match='names no bos_token.* say "bos_token": "<s>" in tokenizer_config.json'):
        load(llava, device="cpu")


def test_minigpt_needs_its_bos(tmp_path: Path) -> None:
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    content = json.loads((tiny / "llama_base" / "tokenizer_config.json").read_text())
    (tiny / "llama_base" / "tokenizer_config.json").write_text(json.dumps(content | {"bos_token": None}))
    (tiny / "llama_base" / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"names no (bos_token)"):
        load(tiny / "minigpt_v2.yaml", device="cpu")


def test_a_contradiction_is_warned_of_stated_and_said_by_doctor(llava: Path, llama: Path) -> None:
    content = json.loads((llava / "config.json").read_text())
    content["text_config"]["bos_token_id"] = 5
    (llava / "config.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="BOS is 5, and the tokenizer's <s> is 1"):
        adapter = load(llava, device="cpu")
    (said,) = adapter.source["cautions"]
    assert said in examine(adapter, examples()).warnings
    stated(llama, bos_token_id=5)
    with pytest.warns(UserWarning, match="BOS is 5, and the tokenizer's <s> is 1"):
        assert len(text(llama).source["cautions"]) == 1


def test_what_a_family_puts_around_texts_whatever_its_tokenizer_does(llava: Path, tmp_path: Path) -> None:
    """LLaVA's template ends with EOS; OpenELM is fed the BOS that its config.json names."""
    stated(llava, eos_token_id=7)
    with pytest.warns(UserWarning, match="EOS is 7, and the tokenizer's </s> is 2; the tokenizer decides"):
        assert load(llava, device="cpu").source["cautions"]
    stated(llava, eos_token_id=[7, 2])
    assert "cautions" not in load(llava, device="cpu").source
    stated(llava, "tokenizer_config.json", add_bos_token=False)
    with pytest.warns(UserWarning, match="add_bos_token: false, and this family gets <s> in front all the same"):
        load(llava, device="cpu")
    stated(llava, "tokenizer_config.json", add_bos_token=True, bos_token="<new>")
    with pytest.warns(UserWarning, match=r"bos_token '<new>' is not in tokenizer.json: it gets the id 642"):
        load(llava, device="cpu")
    openelm = copied(GOLDEN / "openelm_tiny", tmp_path / "openelm")
    for value, bos in ((7, 7), ([7, 8], 7), ("1", 1)):
        stated(openelm, bos_token_id=value)
        adapter = text(openelm)
        assert adapter.token_ids("cats")[0] == bos
        (said,) = adapter.source.get("cautions", [""])
        assert said == ("" if bos == 1 else said) and said.endswith("config.json decides" if bos == 7 else "")


@pytest.mark.parametrize("layer", [-6, 5, [-2, 9], "last"])
def test_layers_of_clip_that_are_not_there(llava: Path, layer: Any) -> None:
    with pytest.raises(ModelError, match="vision_feature_layer"):
        load(stated(llava, vision_feature_layer=layer), device="cpu")


@pytest.mark.parametrize("key", ["image_token_id", "image_token_index"])
@pytest.mark.parametrize("value", ["null", "-1", '"<image>"'])
def test_a_picture_token_that_is_none(llava: Path, key: str, value: str) -> None:
    content = json.loads((llava / "config.json").read_text()) | {key: json.loads(value)}
    (llava / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"{key} is .*, expected the id of a token"):
        load(llava, device="cpu")


@pytest.mark.parametrize("layer", [-1, 1, 4, [-2, -1]])
def test_layers_of_clip_that_are_there(llava: Path, layer: Any) -> None:
    weights = {"model.multi_modal_projector.linear_1.weight": torch.ones(64, 96)} if isinstance(layer, list) else {}
    known = load_file(llava / "model.safetensors")
    changed(llava, add(**{next(k for k in known if k.endswith(key[6:])): h for key, h in weights.items()}))
    assert load(stated(llava, vision_feature_layer=layer), device="cpu").image_tokens == 36


@pytest.mark.parametrize(
    "change", [{"crop_size": {"height": 70, "width": 70}}, {"do_center_crop": False, "size": {"shortest_edge": 112}}]
)
def test_a_processor_of_another_size(llava: Path, change: dict[str, Any]) -> None:
    content = json.loads((llava / "processor_config.json").read_text())
    content["image_processor"] |= change
    (llava / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(
        ModelError, match=r"image processor gives pictures of .*takes \(3, 84, 84\); compare crop_size"
    ):
        load(llava, device="cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dtype": "float33"}, "cannot be loaded .*float33"),
        ({"num_attention_heads": 3}, "cannot be loaded|another shape"),
        ({"hidden_size": 64, "head_dim": 16}, "another shape than config.json says"),
        ({"num_hidden_layers": 2}, r"9 weights are not understood \(first: model\.layers\.2"),
        ({"num_hidden_layers": 4}, r"9 weights are not in the checkpoint \(first: model\.layers\.3"),
        ({"vocab_size": 600}, "another shape than config.json says"),
        ({"attention_bias": True}, r"weights are not in the checkpoint .*bias"),
        ({"hidden_act": "of-nobody"}, "no model can be built from its config.json .*of-nobody"),
    ],
)
def test_a_configuration_of_another_model(llama: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        text(stated(llama, **config))


def test_a_configuration_of_another_llama(tmp_path: Path) -> None:
    tiny = copied(GOLDEN / "minigpt_v2_tiny", tmp_path / "minigpt")
    stated(tiny / "llama_base", bos_token_id="1")
    with pytest.raises(ModelError, match=r"config\.json cannot be loaded .*bos_token_id"):
        load(tiny / "minigpt_v2.yaml", device="cpu")


def test_no_processor_and_a_projector_of_another_shape(llava: Path) -> None:
    key = next(
        key for key in load_file(llava / "model.safetensors") if "multi_modal_projector.linear_1.weight" in key
    )
    changed(llava, add(**{key: torch.ones(64, 32)}))
    with pytest.raises(ModelError, match=r"linear_1\.weight is \(64, 32\), expected \(64, 48\)"):
        load(llava, device="cpu")
    (llava / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded .*processor"):
        load(llava, device="cpu")


def test_tokens_without_an_embedding_cost_their_example_alone(llama: Path, llava: Path) -> None:
    """Among texts and pairs, and where all have one."""
    for folder in (llama, llava):
        content = json.loads((folder / "tokenizer.json").read_text())
        token = {"id": 800, "content": "<new>", "special": False, "normalized": False}
        token |= {"single_word": False, "lstrip": False, "rstrip": False}
        content["added_tokens"].append(token)
        used = {entry["id"] for entry in content["added_tokens"]} | set(content["model"]["vocab"].values())
        for i in range(800):  # ids are counted from the vocabulary on
            if i not in used:
                content["added_tokens"].insert(-1, token | {"id": i, "content": f"<filler{i}>"})
        (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"tokens more than the embedding has rows \(640\)"):
        words = text(llama)
    texts = [Example(str(i), None, "", one) for i, one in enumerate(("A cat sits.", "A <new> cat.", "A dog runs."))]
    result = diff(words, texts, seeds=(0,))
    assert [skipped.id for skipped in result.skipped] == ["1"]
    assert "token 800 ('<new>') has no row in the model's embedding of 640" in result.skipped[0].reason
    with pytest.raises(DataError, match="no row in the model's embedding"):
        diff(words, texts[1:2], seeds=(0,))
    with pytest.warns(UserWarning, match=r"rows \(704\)"):
        sees = load(llava, device="cpu")
    first, *others = examples()
    pairs = [replace(first, response="A <new> cat."), *others]
    found = align(sees, pairs)
    assert found.n == 2 and "token 800 ('<new>')" in found.skipped[0].reason
    assert found.erank5 == align(sees, others).erank5
