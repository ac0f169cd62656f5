from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from mmerank import Example, align, capture, load, wrap
from mmerank.errors import ModelError, UsageError
from mmerank.inputs.sequence import Role
from mmerank.models.encoded import Encoded
from mmerank.models.identity import identity
from mmerank.models.sequences import padded
from tests.adapters.cases import LLAVA, examples
from tests.conftest import GOLDEN

HF_MODEL = GOLDEN / "llava_tiny" / "hf_model"
VISION = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=84,
    patch_size=14,
    projection_dim=16,
)
TEXT: dict[str, Any] = {
    "vocab_size": 704,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def checkpoint(model: Any, folder: Path) -> Path:
    """The model with the tokenizer and processor of the golden checkpoint."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(HF_MODEL / name, folder)
    return folder


def test_a_model_in_memory_and_its_checkpoint_are_the_same() -> None:
    model = LlavaForConditionalGeneration.from_pretrained(HF_MODEL, dtype=torch.float32)
    model.train()
    wrapped = wrap(model, AutoProcessor.from_pretrained(HF_MODEL), name="in memory")
    assert type(wrapped) is type(LLAVA.adapter) and wrapped.source["checkpoint"] == str(HF_MODEL)
    found, expected = align(wrapped, examples()), align(load(HF_MODEL, dtype="float32", device="cpu"), examples())
    assert [r.entropy for r in found.records] == [r.entropy for r in expected.records]
    assert found.source["weights"] == expected.source["weights"]
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("point", "layer", "skip"), [("with_cls", -2, 0), ("last", -1, 1)])
def test_other_vision_points_are_the_layers_they_name(point: str, layer: int, skip: int) -> None:
    adapter = LLAVA.adapter
    pixels = torch.stack([adapter.pixels(e.image, "pad") for e in examples()])  # type: ignore[arg-type]
    with torch.no_grad(), capture(adapter.model, {"vision": adapter.vision_points[point]}) as seen:
        adapter.encode_images(list(pixels))
    expected = LLAVA.golden["clip_hidden_states_pad"][:, layer, skip:]
    assert np.abs(seen["vision"].numpy() - expected).max() < 2e-5


def test_same_states_as_the_models_own_forward() -> None:
    """The other route: transformers' forward over ids and pixels, all hidden states kept."""
    adapter = LLAVA.adapter
    (example, *_) = examples()
    sequence = adapter.sequence(example, "pair", "bare")
    ids, mask = padded([sequence])
    pixels = adapter.pixels(example.image, "pad")[None]  # type: ignore[arg-type]
    config: Any = adapter.model.config
    with torch.no_grad():
        theirs = adapter.model(
            input_ids=ids.masked_fill(ids < 0, config.image_token_id),
            attention_mask=mask.long(),
            pixel_values=pixels,
            output_hidden_states=True,
        ).hidden_states[-1]
        with capture(adapter.model, {"llm": adapter.points["llm"]}) as seen:
            adapter.decode([sequence], adapter.encode_images(list(pixels)))
    assert torch.allclose(seen["llm"], theirs, atol=1e-5)


def test_head_is_not_computed() -> None:
    adapter = LLAVA.adapter

    def fail(*_: Any) -> None:
        raise AssertionError("the LM head was called")

    handle = adapter.model.get_submodule("lm_head").register_forward_hook(fail)
    try:
        assert align(adapter, examples()).n == 3
    finally:
        handle.remove()


def test_bakllava(tmp_path: Path) -> None:
    """LLaVA on Mistral: grouped queries and a sliding window."""
    torch.manual_seed(0)
    text = MistralConfig(**TEXT, sliding_window=64)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=VISION, text_config=text, image_token_index=640))
    adapter = load(checkpoint(model, tmp_path), device="cpu")
    shared, separate = (align(adapter, examples(), share_prefix=share) for share in (True, False))
    assert shared.n == 3 and shared.erank3 == pytest.approx(separate.erank3, rel=1e-6)


def test_vip_llava(tmp_path: Path) -> None:
    """Several CLIP layers side by side are what the connector reads; another template."""
    from transformers import LlamaConfig

    torch.manual_seed(0)
    config = VipLlavaConfig(
        vision_config=VISION,
        text_config=LlamaConfig(**TEXT),
        image_token_index=640,
        vision_feature_layers=[-2, -1, 1],
    )
    adapter = load(checkpoint(VipLlavaForConditionalGeneration(config), tmp_path), device="cpu")
    result = align(adapter, examples())
    widths = {(r.point, r.input): r.d for r in result.records}
    assert widths["vision", "image"] == 3 * 32 and widths["connector", "image"] == 48
    assert list(adapter.vision_points) == ["default", "last"]
    (example, *_) = examples()
    ids = adapter.sequence(example, "pair", "template").ids
    text = adapter.tokenizer.decode([i for i in ids if i >= 0])
    assert "###Human:" in text and "###Assistant:" in text


def test_rotary_angles_that_depend_on_the_length_are_not_called_causal(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    text = LlamaConfig(**TEXT, rope_parameters=rope)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=VISION, text_config=text, image_token_index=640))
    assert not load(checkpoint(model, tmp_path), device="cpu").causal


def test_text_that_repeats_the_template_keeps_its_role() -> None:
    example = Example("a", None, "USER:", "USER: ASSISTANT: yes")
    sequence = LLAVA.adapter.sequence(example, "text", "template")
    text = [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role is Role.TEXT]
    decoded = LLAVA.adapter.tokenizer.decode(text)
    assert decoded.split() == ["USER:", "USER:", "ASSISTANT:", "yes"]


def broken(tmp_path: Path, **config: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(HF_MODEL, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return folder


def test_unknown_model_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter for a checkpoint of model_type 'bert'; known: .*llava"):
        load(broken(tmp_path, model_type="bert"))


def test_no_model_type(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        load(folder)


def test_config_that_is_not_json(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    folder = broken(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_truncated_weights(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_missing_weight(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = broken(tmp_path)
    state = load_file(folder / "model.safetensors")
    dropped = next(name for name in state if "multi_modal_projector.linear_2.weight" in name)
    del state[dropped]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not in the checkpoint .*linear_2"):
        load(folder)


def test_no_such_checkpoint() -> None:
    with pytest.raises(ModelError, match="no such folder, and not to be had from the hub"):
        load("nobody/nothing-of-that-name")


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ({"vision_feature_layer": 0}, "vision_feature_layer is 0"),
    ],
)
def test_what_would_be_read_in_the_wrong_place_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load(broken(tmp_path, **config))


@pytest.mark.parametrize(
    "config",
    [{"vision_config": {"model_type": "siglip_vision_model"}}, {"text_config": {"model_type": "qwen2"}}],
    ids=["vision", "text"],
)
def test_other_parts_go_to_the_general_adapter_and_must_be_those_of_the_weights(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"config\.json makes a model of \d+ weights, and the files have"):
        load(broken(tmp_path, **config))


def test_weights_that_are_not_understood(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = broken(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["language_model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are not understood .*lora_A"):
        load(folder)


def test_fingerprint_sees_one_changed_weight(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = broken(tmp_path)
    before = identity(load(folder, device="cpu"))["weights"]
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layers.1.mlp.up_proj.weight"))
    state[name][50, 30] += 1e-3
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert identity(load(folder, device="cpu"))["weights"] != before


def test_places_must_fit_the_connector() -> None:
    (example, *_) = examples()
    sequence = LLAVA.adapter.sequence(example, "pair", "bare")
    rows = Encoded(torch.zeros(37, 48), torch.zeros(37, 64))
    with pytest.raises(ModelError, match=r"the connector gives 37 rows per picture, but .* places for 36"):
        LLAVA.adapter.decode([sequence], [rows])


def test_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("adapter: llava\n")
    with pytest.raises(UsageError, match="adapter llava is given by a hub id or a directory"):
        load(tmp_path / "m.yaml")
