"""OpenELM against numbers of the published code, on tiny random weights in the published layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from mmerank import capture, effective_rank, load_text, matrix_entropy
from mmerank.errors import ModelError
from mmerank.models.hooks import Point
from mmerank.models.identity import identity
from mmerank.models.loading import TextAdapter
from mmerank_adapters import openelm_model
from mmerank_adapters.openelm import OpenELM
from mmerank_adapters.openelm_config import OpenELMConfig, divisible, per_layer
from mmerank_adapters.openelm_model import OpenELMModel
from tests.adapters.text_cases import OPENELM, TEXTS

NUMBERS = np.load(OPENELM / "golden.npz")
ENTROPIES = json.loads((OPENELM / "openelm_golden.json").read_text())
CONFIG = json.loads((OPENELM / "config.json").read_text())
DERIVED = ENTROPIES["config_derivation"]
VARIANTS = ("txt_resp_bos", "txt_resp")
STATES = ("embeddings", "layer0", "layer1", "layer2", "hidden")
TOLERANCES = {"embeddings": 0.0, "layer0": 5e-5, "layer1": 5e-5, "layer2": 5e-5, "hidden": 1e-4}
PUBLISHED = {"OpenELM-270M": 271_527_168, "OpenELM-450M": 457_179_136, "OpenELM-1_1B": 1_079_891_456}
PUBLISHED |= {"OpenELM-3B": 3_036_647_424}


def number(name: str) -> Tensor:
    return torch.from_numpy(NUMBERS[name])


@pytest.fixture(scope="module")
def adapter() -> TextAdapter:
    return load_text(OPENELM, device="cpu")


def ids_of(adapter: TextAdapter, variant: str, text: str) -> list[int]:
    return adapter.token_ids(text)[0 if variant == "txt_resp_bos" else 1 :]


@torch.no_grad()
def measured(adapter: TextAdapter, ids: list[int]) -> dict[str, Tensor]:
    """Every state of golden.npz, and the logits."""
    points = dict(zip(("embeddings", "layer0", "layer1", "hidden"), adapter.layers, strict=True))
    points["layer2"] = Point("transformer.norm", "input")
    with capture(adapter.model, points) as seen:
        h = adapter.forward(torch.tensor([ids]), torch.ones((1, len(ids)), dtype=torch.bool))
    return {name: h[0] for name, h in seen.items()} | {"logits": adapter.logits(h)[0]}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("i", range(3))
def test_golden_tensors(adapter: TextAdapter, variant: str, i: int) -> None:
    ids = ids_of(adapter, variant, TEXTS[i])
    assert ids == NUMBERS[f"{variant}/{i}/ids"].tolist()
    found = measured(adapter, ids)
    for name, tolerance in {**TOLERANCES, "logits": 1e-4}.items():
        error = (found[name] - number(f"{variant}/{i}/{name}")).abs().max()
        assert error <= tolerance, name
    losses = F.cross_entropy(found["logits"][:-1].double(), torch.tensor(ids[1:]), reduction="none")
    assert np.abs(losses.numpy() - NUMBERS[f"{variant}/{i}/token_nll"]).max() < 5e-5
    assert float(losses.mean()) == pytest.approx(float(NUMBERS[f"{variant}/{i}/mean_loss"]), abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_entropies(adapter: TextAdapter, variant: str) -> None:
    finals = []
    for i, text in enumerate(TEXTS):
        golden = ENTROPIES["per_text"][i][variant]
        found = measured(adapter, ids_of(adapter, variant, text))
        for name in STATES:
            expected = golden["entropy_f64_by_state"][name]
            assert float(matrix_entropy(found[name])) == pytest.approx(expected, abs=1e-6), name
        assert float(effective_rank(found["hidden"])) == pytest.approx(golden["erank_f64"], rel=1e-5)
        finals.append(float(matrix_entropy(found["hidden"])))
    assert np.exp(np.mean(finals)) == pytest.approx(ENTROPIES["dataset"][variant]["erank_f64"], rel=1e-5)


def test_inside_the_layers(adapter: TextAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a mistake is made shows here, not only that one was."""
    rotations: list[Tensor] = []
    rotate = openelm_model.rotated

    def recorded(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        rotations.append(rotate(x, angles))
        return rotations[-1]

    monkeypatch.setattr(openelm_model, "rotated", recorded)
    modules = {
        "attn_norm": ("attn_norm", "output"),
        "qkv": ("attn.qkv_proj", "output"),
        "q_normed": ("attn.q_norm", "output"),
        "k_normed": ("attn.k_norm", "output"),
        "heads_concat": ("attn.out_proj", "input"),
        "attn_out": ("attn", "output"),
        "ffn_norm": ("ffn_norm", "output"),
        "ffn_proj_1": ("ffn.proj_1", "output"),
        "ffn_out": ("ffn", "output"),
    }
    points: dict[str, Any] = {
        f"layer{layer}/{name}": (f"transformer.layers.{layer}.{path}", side)
        for layer in range(3)
        for name, (path, side) in modules.items()
    }
    ids = torch.tensor([adapter.token_ids(TEXTS[2])])
    with torch.no_grad(), capture(adapter.model, points) as seen:
        adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))
    found = dict(seen) | {
        f"layer{layer}/{name}_rotated": rotations[2 * layer + i] for layer in range(3) for i, name in enumerate("qk")
    }
    assert {f"probe/2/{name}" for name in found} == {key for key in NUMBERS.files if key.startswith("probe/")}
    for name, h in found.items():
        assert (h[0] - number(f"probe/2/{name}")).abs().max() < 5e-5, name


@pytest.mark.parametrize("entry", DERIVED["make_divisible"], ids=lambda e: f"{e['value']}-{e['divisor']}")
def test_widths(entry: Mapping[str, Any]) -> None:
    assert divisible(entry["value"], entry["divisor"]) == entry["result"]


@pytest.mark.parametrize("entry", DERIVED["configs"], ids=lambda e: e["name"])
def test_configurations(entry: Mapping[str, Any]) -> None:
    keys = {"vocab_size": 32000, "ffn_dim_divisor": 256, "rope_freq_constant": 10000, "max_context_length": 2048}
    content = {**keys, "ffn_with_glu": True, **entry["arguments"]}
    if "error" in entry:
        with pytest.raises(ModelError, match="model_dim 100 is not a multiple of head_dim 16"):
            OpenELMConfig.from_json(content, "x")
        return
    config = OpenELMConfig.from_json(content, "x")
    assert list(config.query_heads) == entry["num_query_heads"]
    assert list(config.kv_heads) == entry["num_kv_heads"]
    assert list(config.ffn_widths) == entry["ffn_intermediate"]
    layers = content["num_transformer_layers"]
    assert per_layer(content["ffn_multipliers"], layers) == entry["ffn_multipliers"]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in OpenELMModel(config).parameters())
    assert count == entry["parameters"] == PUBLISHED.get(entry["name"], count)


def test_the_published_file() -> None:
    """config.json of the 270M model, where the multipliers of the FFN are written out."""
    entry = next(e for e in DERIVED["configs"] if e["name"] == "OpenELM-270M")
    written = {key: entry[key] for key in ("num_query_heads", "num_kv_heads", "ffn_multipliers")}
    content = {**CONFIG, **entry["arguments"], **written, "vocab_size": 32000, "ffn_dim_divisor": 256}
    config = OpenELMConfig.from_json(content, "x")
    assert list(config.ffn_widths) == entry["ffn_intermediate"] and config.ffn_widths[-1] == 5120
    assert list(config.query_heads) == entry["num_query_heads"]


def test_which_head_counts_of_the_file_count() -> None:
    """Query heads are computed whatever the file says, KV heads are what it says."""
    config = OpenELMConfig.from_json({**CONFIG, "num_query_heads": [1, 1, 1], "num_kv_heads": [2, 4, 8]}, "x")
    assert config.query_heads == (4, 8, 8) and config.kv_heads == (2, 4, 8)
    computed = OpenELMConfig.from_json({k: v for k, v in CONFIG.items() if k != "num_kv_heads"}, "x")
    assert computed.kv_heads == (1, 2, 2)


def test_longer_than_the_vocabulary_and_than_the_rotary_table(adapter: TextAdapter) -> None:
    ids = torch.arange(2100)[None] % 640
    with torch.no_grad():
        assert adapter.logits(adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))).shape == (1, 2100, 640)


def changed(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A copy of the tiny checkpoint; keys of None are left out of config.json."""
    shutil.copytree(OPENELM, folder / "model")
    content = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "model" / "config.json").write_text(json.dumps(content))
    if tensors is not None:
        save_file(dict(tensors), folder / "model" / "model.safetensors")
    return folder / "model"


def tensors_of_tiny() -> dict[str, Tensor]:
    content: dict[str, Tensor] = load_file(OPENELM / "model.safetensors")
    return content


def test_shards(tmp_path: Path, adapter: TextAdapter) -> None:
    folder = changed(tmp_path, {})
    (folder / "model.safetensors").unlink()
    tensors = tensors_of_tiny()
    index: dict[str, str] = {}
    for i in range(3):
        name = f"model-{i + 1:05}-of-00003.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[i::3]}
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert identity(load_text(folder, device="cpu"))["weights"] == identity(adapter)["weights"]
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights cannot be loaded.*00002"):
        load_text(folder, device="cpu")


def test_other_heads_share_or_not(tmp_path: Path, adapter: TextAdapter) -> None:
    """An LM head of its own is read and used, and drawn in the twin."""
    tensors = tensors_of_tiny()
    tensors["lm_head.weight"] = 2 * tensors["transformer.token_embeddings.weight"]
    other = load_text(changed(tmp_path, {"share_input_output_layers": False}, tensors), device="cpu")
    h = torch.randn(3, 96)
    with torch.no_grad():
        assert torch.allclose(other.logits(h), 2 * adapter.logits(h))
        assert other.untrained(0).logits(h).std() == pytest.approx(1, rel=0.2)


def test_without_gate_and_without_norms(tmp_path: Path) -> None:
    """What no published model has, but a configuration may say: the same module, other parameters."""
    tensors = {key: h for key, h in tensors_of_tiny().items() if "q_norm" not in key and "k_norm" not in key}
    for key, h in tensors.items():
        if key.endswith("ffn.proj_1.weight"):
            tensors[key] = h[: len(h) // 2].clone()
    config = {"ffn_with_glu": False, "normalize_qk_projections": False, "activation_fn_name": "silu"}
    other = load_text(changed(tmp_path, config, tensors), device="cpu")
    assert measured(other, other.token_ids(TEXTS[2]))["hidden"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn_name": "gelu"}, "activation_fn_name is 'gelu'; known: swish, silu"),
        ({"normalization_layer_name": "layer_norm"}, "normalization_layer_name is 'layer_norm'; known: rms_norm"),
        ({"head_dim": None}, "has no 'head_dim', which OpenELM needs"),
        ({"num_kv_heads": [1, 2]}, r"num_kv_heads \[1, 2\] do not divide"),
        ({"num_kv_heads": [1, 3, 2]}, r"num_kv_heads \[1, 3, 2\] do not divide the query heads \[4, 8, 8\]"),
        ({"ffn_multipliers": [1.0, 2.0, 3.0, 4.0]}, "not one of OpenELM .4 multipliers for 3 layers"),
        ({"model_dim": "wide"}, r"model_dim is text .'wide'., expected a whole number"),
        ({"num_transformer_layers": 4, "ffn_multipliers": [0.5, 4.0], "num_kv_heads": None}, "are not in the check"),
        ({"vocab_size": 700}, r"token_embeddings.weight is \(640, 96\), expected \(700, 96\)"),
        ({"normalize_qk_projections": False}, "6 weights are not understood .*k_norm"),
        ({"vocab_size": 100}, "a tokenizer of 640 tokens, but .* has 100 embeddings"),
    ],
)
def test_what_is_not_understood(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_text(changed(tmp_path, change), device="cpu")


def test_no_tokenizer_is_explained(tmp_path: Path) -> None:
    folder = changed(tmp_path, {})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"comes without a tokenizer; give that of Llama-2, .* as `tokenizer`"):
        load_text(folder, device="cpu")


def test_one_bos_whatever_the_tokenizer_adds(tmp_path: Path, adapter: TextAdapter) -> None:
    folder = changed(tmp_path, {})
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**content, "add_bos_token": False, "add_eos_token": True})
    )
    for text in TEXTS:
        ids = load_text(folder, device="cpu").token_ids(text)
        assert ids == adapter.token_ids(text) and ids.count(1) == 1 and 2 not in ids


def test_fresh_weights_have_the_constructors_spread() -> None:
    """Standard deviations of the original: `initializer_range` has no effect."""
    config = OpenELMConfig.from_json(CONFIG, "x")
    model = OpenELMModel(config)
    model.draw()
    for name, h in model.state_dict().items():
        if name.endswith("norm.weight"):
            assert torch.equal(h, torch.ones_like(h))
            continue
        variance = 1 / (96 * 2 * 3) if name.endswith(("out_proj.weight", "proj_2.weight")) else 1 / 96
        assert float(h.std()) == pytest.approx(variance**0.5, rel=0.05), name
        assert abs(float(h.mean())) < 0.01


def test_the_file_may_change_after_loading(tmp_path: Path) -> None:
    folder = changed(tmp_path, {})
    adapter = load_text(folder, device="cpu")
    before = {name: h.clone() for name, h in adapter.model.named_parameters()}
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:1000] + b"\x00" * (len(content) - 1000))
    assert all(torch.equal(h, before[name]) for name, h in adapter.model.named_parameters())
    assert isinstance(adapter, OpenELM)
