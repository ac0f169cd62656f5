"""MiniGPT-v2 against numbers of the published code, on tiny random weights in the published layout."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig

from mmerank.errors import ModelError
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Kind, Role, TokenSequence
from mmerank.models.adapter import Adapter, load
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import Point, capture
from mmerank.models.identity import identity
from mmerank.states.entropy import effective_rank
from mmerank_adapters.minigpt_v2_model import MiniGPTv2Model

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "minigpt_v2_tiny"
NUMBERS = np.load(TINY / "golden.npz")
PIXELS = torch.from_numpy(NUMBERS["pixel_values"])
ERANKS = json.loads((TINY / "erank_golden.json").read_text())
EXAMPLES = [
    Example(str(s["id"]), GOLDEN / "images" / s["image"], s["instruction"], s["response"])
    for s in json.loads((GOLDEN / "samples.json").read_text())
]
CHECKPOINTS = ("checkpoint.pth", "checkpoint_peft_default_names.pth")
# golden.npz's name for each sequence
VARIANTS: Mapping[tuple[Any, Kind], str] = {
    ("bare", "image"): "img_bos",
    ("bare", "text"): "txt_full_bos",
    ("bare", "pair"): "pair_bare_full",
    ("template", "image"): "img_tag_bos",
    ("template", "text"): "txt_train",
    ("template", "pair"): "pair_train",
}
LORA_KEYS = [
    f"llama_model.base_model.model.model.layers.{layer}.self_attn.{target}.lora_{side}.weight"
    for layer in (0, 1)
    for target in ("q_proj", "v_proj")
    for side in "AB"
]


def tiny_yaml(folder: Path, **keys: Any) -> Path:
    """A YAML file for the tiny model, with `keys` changed, or left out where None."""
    written = {
        "adapter": "minigpt-v2",
        "llama_model": str(TINY / "llama_base"),
        "vit_checkpoint": str(TINY / "eva_vit_g.pth"),
        "checkpoint": str(TINY / "checkpoint.pth"),
        "image_size": 112,
        "vit_depth": 3,
        "vit_heads": 4,
    } | keys
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in written.items() if value is not None}))
    return file


def tiny(folder: Path, dtype: str | None = None, **keys: Any) -> Adapter:
    return load(tiny_yaml(folder, **keys), dtype=dtype, device="cpu")


def changed(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "checkpoint.pth") -> str:
    """A copy of a file of weights after `change`; the path."""
    state = torch.load(TINY / name, weights_only=True)
    change(state)
    torch.save(state, folder / name)
    return str(folder / name)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return tiny(tmp_path_factory.mktemp("tiny"), checkpoint=str(TINY / request.param))


@torch.inference_mode()
def vision_path(adapter: Adapter, points: Mapping[str, Point]) -> Mapping[str, Tensor]:
    with capture(adapter.model, points) as seen:
        adapter.encode_images(list(PIXELS))
    return seen


@torch.inference_mode()
def hidden(adapter: Adapter, sequences: list[TokenSequence], images: list[Encoded] | None) -> Tensor:
    with capture(adapter.model, {"llm": adapter.points["llm"]}) as seen:
        adapter.decode(sequences, images)
    states: Tensor = seen["llm"]
    return states


def pair_states(adapter: Adapter) -> Tensor:
    """Hidden states of the first example's pair in the template, (n, d)."""
    with torch.inference_mode():
        images = adapter.encode_images([PIXELS[0]])
    return hidden(adapter, [adapter.sequence(EXAMPLES[0], "pair", "template")], images)[0]


def error_of(measured: Tensor, name: str) -> float:
    golden = NUMBERS[name]
    assert tuple(measured.shape) == golden.shape
    return float(np.abs(measured.double().numpy() - golden).max())


# --- numbers of the published code ---


def test_vision_tensors(adapter: Adapter) -> None:
    blocks = {str(i): Point(f"visual_encoder.blocks.{i}") for i in range(3)}
    whole = {"vit": Point("visual_encoder"), "ln": Point("ln_vision"), "connector_in": Point("llama_proj", "input")}
    seen = vision_path(adapter, blocks | whole | {"connector": adapter.points["connector"]})
    assert error_of(adapter.model.get_parameter("visual_encoder.pos_embed").detach(), "pos_embed_interpolated") < 2e-5
    assert error_of(seen["vit"], "vit_out") < 2e-5
    assert error_of(torch.stack([seen[str(i)] for i in range(3)], dim=1), "vit_block_out") < 2e-5
    assert error_of(seen["ln"], "ln_vision_out") < 2e-5
    assert error_of(seen["connector_in"], "connector_in") < 2e-5
    assert error_of(seen["connector"], "connector_out") < 2e-5


def test_eps_of_ln_vision(adapter: Adapter) -> None:
    """On tokens so small that eps matters; on those of the pictures it is within the tolerance."""
    h = torch.linspace(-1e-3, 1e-3, 64)
    expected = h / (h.var(unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(adapter.model.get_submodule("ln_vision")(h), expected, rtol=1e-4)


def test_vision_points_and_what_they_do_to_the_reduction_ratio(adapter: Adapter) -> None:
    """The effective ranks of the published code's tensors, and the ratios in the class docstring."""
    seen = vision_path(adapter, {**adapter.vision_points, "connector": adapter.points["connector"]})

    def erank(name: str) -> float:
        return float(np.exp(np.mean([np.log(float(effective_rank(h))) for h in seen[name]])))

    golden = {
        "default": "eRank1:ln_vision_no_cls",
        "with_cls": "eRank1:ln_vision_with_cls",
        "merged": "eRank1:merged4",
        "vit": "eRank1:vit_no_cls",
        "connector": "eRank2:connector",
    }
    assert set(golden) == set(seen)
    for name, key in golden.items():
        assert erank(name) == pytest.approx(ERANKS["dataset"][key]["erank_f64"], rel=1e-5)
    ratios = {name: 1 - erank("connector") / erank(name) for name in adapter.vision_points}
    assert ratios == pytest.approx({"default": 0.320, "with_cls": 0.338, "merged": 0.061, "vit": 0.309}, abs=6e-4)
    assert "0.320" in str(type(adapter).__doc__) and "0.061" in str(type(adapter).__doc__)
    assert adapter.vision_points["default"] == adapter.points["vision"]


# --- sequences ---


def roles_of(sequence: TokenSequence) -> list[tuple[Role, int]]:
    """Runs of equal roles, with their lengths."""
    runs: list[tuple[Role, int]] = []
    for role in sequence.roles:
        runs[-1:] = [(role, runs[-1][1] + 1)] if runs and runs[-1][0] is role else [*runs[-1:], (role, 1)]
    return runs


def test_roles(adapter: Adapter) -> None:
    # "INST" also stands in the template; the pieces are `▁A|INST|▁B`
    example = Example("x", None, "INST", "INST")
    assert roles_of(adapter.sequence(example, "image", "template")) == [
        (Role.BOS, 1),
        (Role.TEMPLATE, 3),  # <Img>
        (Role.IMAGE, 16),
        (Role.TEMPLATE, 4),  # </Img>
    ]
    text = adapter.sequence(example, "text", "template")
    assert roles_of(text)[:2] == [(Role.BOS, 1), (Role.TEMPLATE, 3)]  # [INST]
    assert [role for role, _ in roles_of(text)] == [
        Role.BOS,
        Role.TEMPLATE,
        Role.TEXT,  # the instruction
        Role.TEMPLATE,
        Role.TEXT,  # the response
        Role.TEMPLATE,  # </s>
    ]
    assert roles_of(text)[-1] == (Role.TEMPLATE, 1) and text.ids[-1] == 2
    pair = adapter.sequence(example, "pair", "template")
    assert [role for role, _ in roles_of(pair)] == [
        Role.BOS,
        Role.TEMPLATE,
        Role.IMAGE,
        Role.TEMPLATE,
        Role.TEXT,
        Role.TEMPLATE,
        Role.TEXT,
        Role.TEMPLATE,
    ]
    bare = adapter.sequence(EXAMPLES[0], "pair", "bare")
    assert roles_of(bare) == [(Role.BOS, 1), (Role.IMAGE, 16), (Role.TEXT, len(bare) - 17)]


def test_a_response_that_begins_with_a_space_keeps_sentencepiece_ids(adapter: Adapter) -> None:
    """The ids of sentencepiece itself for " lead": one space for the segment, one for the text."""
    sequence = adapter.sequence(Example("x", None, "", " lead"), "text", "template")
    assert sequence.ids[-5:] == (567, 343, 569, 578, 2)


@pytest.mark.parametrize("first", [{"type": "Lowercase"}, {"type": "NFKC"}])
def test_a_tokenizer_that_normalises_more_than_llamas_is_refused(tmp_path: Path, first: dict[str, str]) -> None:
    """Its own normaliser would be put aside for that of the published code."""
    llama = tmp_path / "llama"
    shutil.copytree(TINY / "llama_base", llama, copy_function=shutil.copyfile)
    content = json.loads((llama / "tokenizer.json").read_text())
    content["normalizer"]["normalizers"].insert(0, first)
    (llama / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"tokenizer\.json reads .* in another way than the tokenizer of Llama"):
        tiny(tmp_path, llama_model=str(llama))


def test_sizes(adapter: Adapter) -> None:
    assert (adapter.image_tokens, adapter.max_tokens, adapter.causal) == (16, 2048, True)


# --- preprocessing ---


def test_layouts_agree_on_a_square_and_differ_elsewhere(adapter: Adapter) -> None:
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (30, 0, 50, 40))  # the middle quarter
    square = wide.resize((56, 56))
    assert torch.equal(adapter.pixels(square, "pad"), adapter.pixels(square, "model"))
    assert torch.equal(adapter.pixels(square, "crop"), adapter.pixels(square, "model"))
    model, pad, crop = (adapter.pixels(wide, layout) for layout in ("model", "pad", "crop"))
    assert model.shape == pad.shape == crop.shape == (3, 112, 112)
    red, blue = (
        adapter.pixels(Image.new("RGB", (9, 9), "red"), "model"),
        adapter.pixels(Image.new("RGB", (9, 9), "blue"), "model"),
    )
    assert torch.equal(model[:, :, 0], red[:, :, 0]) and torch.equal(model[:, 0, 56], blue[:, 0, 56])
    assert pad[:, :20].abs().max() < 0.02  # the mean colour, to 8 bits
    assert torch.equal(pad[:, 56, 0], red[:, 0, 0]) and torch.equal(pad[:, 56, 56], blue[:, 0, 0])
    # half of the width is left, and blue is half of that
    assert torch.equal(crop[:, :, 10], red[:, :, 0]) and torch.equal(crop[:, :, 34:78], blue[:, :, 34:78])


# --- LoRA and checkpoint keys ---


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("key", LORA_KEYS)
def test_a_lora_key_removed(tmp_path: Path, name: str, key: str) -> None:
    key = key if name == "checkpoint.pth" else key.replace(".weight", ".default.weight")
    checkpoint = changed(tmp_path, lambda file: file["model"].pop(key), name)
    with pytest.raises(ModelError, match=r"lora_[AB].* missing"):
        tiny(tmp_path, checkpoint=checkpoint)


def test_all_lora_keys_removed(tmp_path: Path) -> None:
    checkpoint = changed(tmp_path, lambda file: [file["model"].pop(key) for key in LORA_KEYS])
    with pytest.raises(ModelError, match=r"8 keys .* missing"):
        tiny(tmp_path, checkpoint=checkpoint)


def test_zero_lora_gives_the_base_model(adapter: Adapter, tmp_path: Path) -> None:
    checkpoint = changed(tmp_path, lambda file: [file["model"][key].zero_() for key in LORA_KEYS if "_B" in key])
    base = pair_states(tiny(tmp_path, checkpoint=checkpoint))
    assert error_of(base, "pair_train_nolora/0/hidden") < 5e-5
    assert float((base - pair_states(adapter)).abs().max()) > 0.1


def test_alpha_scales_lora(adapter: Adapter, tmp_path: Path) -> None:
    """Alpha 32 with half of B is alpha 16 with B; alpha 32 alone is something else."""
    checkpoint = changed(tmp_path, lambda file: [file["model"][key].mul_(0.5) for key in LORA_KEYS if "_B" in key])
    states = pair_states(tiny(tmp_path, checkpoint=checkpoint, lora_alpha=32))
    assert error_of(states, "pair_train/0/hidden") < 5e-5
    assert error_of(pair_states(tiny(tmp_path, lora_alpha=32)), "pair_train/0/hidden") > 0.1


def test_lora_on_further_modules_must_be_on_all_layers(tmp_path: Path) -> None:
    def also_on_up_proj(layers: range) -> Callable[[dict[str, Any]], None]:
        def change(file: dict[str, Any]) -> None:
            for layer in layers:
                prefix = f"llama_model.base_model.model.model.layers.{layer}.mlp.up_proj.lora_"
                file["model"][f"{prefix}A.weight"] = torch.ones(2, 64)
                file["model"][f"{prefix}B.weight"] = torch.ones(172, 2)

        return change

    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.lora_A.* missing"):
        tiny(tmp_path, checkpoint=changed(tmp_path, also_on_up_proj(range(1))))
    with_it = tiny(tmp_path, checkpoint=changed(tmp_path, also_on_up_proj(range(2))))
    without = tiny(tmp_path)
    name = "llama_model.layers.1.mlp.up_proj.weight"
    update = with_it.model.get_parameter(name) - without.model.get_parameter(name)
    assert torch.allclose(update, torch.full((172, 64), 16.0))  # alpha / r * B A = 16 / 2 * 2


PREFIX = "llama_model.base_model.model.model."


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (
            f"{PREFIX}layers.2.self_attn.q_proj.lora_A.weight",
            torch.ones(4, 64),
            "LoRA for 'layers.2.self_attn.q_proj",
        ),
        (f"{PREFIX}layers.0.self_attn.q_proj.lora_A.default.weight", torch.ones(4, 64), "two spellings"),
        (LORA_KEYS[0], torch.ones(4, 63), r"A \(4, 63\) and B \(64, 4\)"),
        (LORA_KEYS[0], torch.ones(3, 64), r"A \(3, 64\) and B \(64, 4\)"),
        (f"{PREFIX}layers.0.self_attn.q_proj.weight", torch.ones(64, 64), "not understood"),
        (f"{PREFIX}embed_tokens.lora_embedding_A", torch.ones(4, 640), "not understood"),
        ("visual_encoder.cls_token", torch.ones(1, 1, 64), "not understood"),
        ("stray", torch.ones(1), "'stray' not understood"),
        ("llama_proj.scale", torch.ones(1), "'scale' of llama_proj not understood"),
        ("llama_proj.weight", torch.ones(64, 255), r"weight of llama_proj is \(64, 255\), expected \(64, 256\)"),
        ("llama_proj.weight", None, "'weight' of llama_proj missing"),
        ("llama_proj.bias", None, "'bias' of llama_proj missing"),
        ("ln_vision.weight", torch.ones(64), "'bias' of ln_vision missing"),
        ("llama_proj.bias", "a string", "'llama_proj.bias': expected a floating-point tensor, found str"),
        ("llama_proj.bias", torch.ones(64, dtype=torch.long), r"'llama_proj.bias': .* found torch.int64"),
        (
            "llama_proj.bias",
            torch.ones(64).to(torch.float8_e5m2),
            r"'llama_proj.bias': .* 16 bits or more, found torch.float8",
        ),
    ],
)
def test_a_checkpoint_that_is_not_understood(tmp_path: Path, key: str, tensor: Any, message: str) -> None:
    def change(file: dict[str, Any]) -> None:
        file["model"].pop(key, None)
        if tensor is not None:
            file["model"][key] = tensor

    with pytest.raises(ModelError, match=message) as raised:
        tiny(tmp_path, checkpoint=changed(tmp_path, change))
    assert str(tmp_path / "checkpoint.pth") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.update(ema=1), "'ema' beside 'model' not understood"),
        (lambda file: file.pop("model"), "no entry 'model'"),
        (lambda file: file.update(model=[1]), "expected a dictionary of tensors, found list"),
    ],
)
def test_top_level_of_the_checkpoint(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(tmp_path, checkpoint=changed(tmp_path, change))


def test_ln_vision_of_the_checkpoint(adapter: Adapter, tmp_path: Path) -> None:
    weight, bias = torch.linspace(0.5, 2, 64), torch.linspace(-1, 1, 64)
    checkpoint = changed(
        tmp_path, lambda file: file["model"].update({"ln_vision.weight": weight, "ln_vision.bias": bias})
    )
    scaled = tiny(tmp_path, checkpoint=checkpoint)
    plain = vision_path(adapter, {"vision": adapter.points["vision"]})["vision"]
    seen = vision_path(scaled, {"vision": scaled.points["vision"]})["vision"]
    assert torch.allclose(seen, plain * weight + bias, atol=1e-5)
    assert scaled.source["checkpoint"]["ln_vision"] and not adapter.source["checkpoint"]["ln_vision"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda vit: vit.pop("blocks.1.attn.q_bias"),
            "'blocks.1.attn.q_bias' of the vision encoder of 3 blocks miss",
        ),
        (lambda vit: vit.pop("pos_embed"), "no entry 'pos_embed'"),
        (lambda vit: vit.update(pos_embed=vit["pos_embed"][:, 1:-1]), r"expected positions .* got \(1, 15, 64\)"),
        (
            lambda vit: vit.update({"blocks.0.attn.k_bias": torch.ones(64)}),
            "'blocks.0.attn.k_bias' .* not understood",
        ),
        (lambda vit: vit.update({"rel_pos_bias.table": torch.ones(4)}), "'rel_pos_bias.table' .* not understood"),
        (lambda vit: vit.update({"cls_token": torch.ones(1, 1, 48)}), r"cls_token .* is \(1, 1, 48\)"),
        (lambda vit: vit.update({"model": {}}), "'model': .* found dict"),
    ],
)
def test_a_vision_file_that_is_not_understood(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        tiny(tmp_path, vit_checkpoint=changed(tmp_path, change, "eva_vit_g.pth"))
    assert str(tmp_path / "eva_vit_g.pth") in str(raised.value)


def test_positions_of_the_right_size_are_left_alone(tmp_path: Path) -> None:
    adapter = tiny(tmp_path, image_size=56)
    stored = torch.load(TINY / "eva_vit_g.pth", weights_only=True)["pos_embed"]
    assert torch.equal(adapter.model.get_parameter("visual_encoder.pos_embed"), stored.float())
    assert adapter.image_tokens == 4


# --- files that are refused ---


class Unsafe:
    """Unpickled without care, this makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("key", ["vit_checkpoint", "checkpoint"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, key: str) -> None:
    victim = tmp_path / "victim"
    torch.save({"model": {}, "config": Unsafe(victim)}, tmp_path / "unsafe.pth")
    with pytest.raises(ModelError, match=r"unsafe\.pth: asks for (posix|nt)\.mkdir, and loading that could run code"):
        tiny(tmp_path, **{key: str(tmp_path / "unsafe.pth")})
    assert not victim.exists()
    torch.load(tmp_path / "unsafe.pth", weights_only=False)
    assert victim.exists()  # so it was the refusal that kept it away


def test_configuration_objects_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": {}, "config": Example("x", None, "", "")}, tmp_path / "config.pth")
    with pytest.raises(ModelError, match=r"asks for mmerank\.inputs\.example\.Example.*weights_only=False.*new file"):
        tiny(tmp_path, checkpoint=str(tmp_path / "config.pth"))


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", pickle.dumps(3, protocol=2), (TINY / "checkpoint.pth").read_bytes()[:5000]],
    ids=["empty", "text", "number", "truncated"],
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pth"):
        tiny(tmp_path, checkpoint=str(tmp_path / "bad.pth"))


def test_llama_of_another_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match="model_type is 'gpt2'"):
        tiny(tmp_path, llama_model=str(tmp_path))


def test_llama_with_another_number_of_layers(tmp_path: Path) -> None:
    config = json.loads((TINY / "llama_base" / "config.json").read_text())
    for layers, message in ((1, "LoRA for .* but the Llama model has 1 layers"), (3, r"layers\.2\..* missing")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
        with pytest.raises(ModelError, match=message):
            tiny(tmp_path, llama_model=str(tmp_path))


def test_llama_weights_that_are_missing_or_left_over(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(TINY / "llama_base" / "model.safetensors")
    (tmp_path / "config.json").write_bytes((TINY / "llama_base" / "config.json").read_bytes())
    norm = weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"norm\.weight\)"):
        tiny(tmp_path, llama_model=str(tmp_path))
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
    save_file(weights | {"model.norm.weight": norm} | bias, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not understood .*q_proj\.bias"):
        tiny(tmp_path, llama_model=str(tmp_path))


# --- the YAML file ---


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_sise": 112}, "unknown key image_sise; adapter minigpt-v2 knows llama_model, vit_checkpoint, "),
        ({"dtype": "float32"}, "unknown key dtype"),
        ({"llama_model": None}, "missing key llama_model"),
        ({"vit_checkpoint": None}, "missing key vit_checkpoint"),
        ({"checkpoint": None}, "missing key checkpoint"),
        ({"checkpoint": "nowhere.pth"}, r"checkpoint: no such file, .*nowhere\.pth"),
        ({"vit_checkpoint": "nowhere.pth"}, r"vit_checkpoint: no such file, .*nowhere\.pth"),
        ({"checkpoint": str(TINY)}, "checkpoint: no such file"),
        ({"llama_model": "./nowhere"}, "llama_model: no such folder, .*nowhere"),
        ({"checkpoint": 3}, "checkpoint is 3, expected a path"),
        ({"llama_model": ["a"]}, r"llama_model is \['a'\], expected a path"),
        ({"image_size": "112"}, "image_size is '112', expected a whole number"),
        ({"image_size": 113}, "image_size is 113, expected a multiple of 28"),
        ({"image_size": -112}, "image_size is -112"),
        ({"vit_depth": 0}, "vit_depth is 0"),
        ({"vit_depth": True}, "vit_depth is True"),
        ({"vit_heads": 4.0}, "vit_heads is 4.0"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', expected a number above 0"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    ],
)
def test_yaml_mistakes(tmp_path: Path, keys: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load(tiny_yaml(tmp_path, **keys), device="cpu")
    assert str(tmp_path / "tiny.yaml") in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vit_depth": 5}, "4 blocks in it, and vit_depth is 5"),
        ({"vit_heads": 5}, "its width 64 is no multiple of vit_heads, 5"),
        (
            {"llama_model": "a/b/c"},
            "llama_model: a/b/c: no folder beside the YAML file, and not to be had from the hub",
        ),
        (
            {"vit_checkpoint": str(TINY / "checkpoint.pth")},
            "'model': expected a floating-point tensor, found OrderedDict",
        ),
        ({"checkpoint": str(TINY / "eva_vit_g.pth")}, "no entry 'model'"),
    ],
)
def test_yaml_values_that_do_not_fit_the_files(tmp_path: Path, keys: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(tmp_path, **keys)


def test_files_may_go_after_loading(tmp_path: Path) -> None:
    adapter = tiny(
        tmp_path,
        vit_checkpoint=changed(tmp_path, lambda file: None, "eva_vit_g.pth"),
        checkpoint=changed(tmp_path, lambda file: None),
    )
    for name in ("eva_vit_g.pth", "checkpoint.pth"):
        with (tmp_path / name).open("r+b") as file:
            file.write(bytes((tmp_path / name).stat().st_size))
    assert error_of(pair_states(adapter), "pair_train/0/hidden") < 5e-5


def test_weights_in_torch_s_older_file_format(tmp_path: Path) -> None:
    state = torch.load(TINY / "eva_vit_g.pth", weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    adapter = tiny(tmp_path, vit_checkpoint="old.pth")
    assert error_of(pair_states(adapter), "pair_train/0/hidden") < 5e-5


def test_paths_are_relative_to_the_yaml_file(tmp_path: Path) -> None:
    for name in ("llama_base", "eva_vit_g.pth", "checkpoint.pth"):
        (tmp_path / name).symlink_to(TINY / name)
    adapter = tiny(tmp_path, llama_model="llama_base", vit_checkpoint="eva_vit_g.pth", checkpoint="checkpoint.pth")
    assert adapter.source["checkpoint"]["path"] == str(tmp_path / "checkpoint.pth")
    assert adapter.name == str(tmp_path / "tiny.yaml")


# --- dtypes, devices, the record ---


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.02), ("bfloat16", 0.15), ("float64", 5e-5)])
def test_dtypes(tmp_path: Path, dtype: str, bound: float) -> None:
    adapter = tiny(tmp_path, dtype=dtype)
    number = getattr(torch, dtype)
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {number}
    assert adapter.model.get_buffer("llama_model.rotary_emb.inv_freq").dtype == torch.float32
    states = pair_states(adapter)
    assert states.dtype == number
    assert error_of(states, "pair_train/0/hidden") < bound
    # LoRA is added before rounding, positions are interpolated before rounding
    exact = tiny(tmp_path)
    for name in ("llama_model.layers.1.self_attn.q_proj.weight", "visual_encoder.pos_embed"):
        assert torch.equal(adapter.model.get_parameter(name), exact.model.get_parameter(name).to(number))


def test_dtype_of_the_llama_checkpoint(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(TINY / "llama_base", dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((TINY / "llama_base" / name).read_bytes())
    adapter = tiny(tmp_path, llama_model="half")
    assert adapter.source["dtype"] == "float16" and tiny(tmp_path).source["dtype"] == "float32"
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {torch.float16}


def test_source_says_which_file_gave_what(adapter: Adapter) -> None:
    source = identity(adapter)
    json.dumps(source)
    assert (source["adapter"], source["dtype"], len(source["weights"])) == ("minigpt-v2", "float32", 16)
    # 4 before the blocks and 13 in each; two matrices for two modules of two layers, weight and bias of llama_proj
    assert source["vit_checkpoint"]["tensors"] == 4 + 3 * 13
    assert source["checkpoint"]["tensors"] == 2 * 2 * 2 + 2 and source["checkpoint"]["lora_rank"] == [4]
    computed = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in (0, 1)]
    assert source["llama_model"]["tensors"] == 2 + 2 * 9
    assert source["llama_model"]["ignored"] == ["lm_head.weight", *computed]
    ignored = source["vit_checkpoint"]["ignored"]
    assert len(ignored) == 13 + 4 and {"head.bias", "norm.weight", "blocks.3.attn.q_bias"} < set(ignored)
    assert source["checkpoint"]["ignored"] == [f"{PREFIX}layers.{i}.self_attn.rotary_emb.inv_freq" for i in (0, 1)]
    assert (source["image_size"], source["vit_depth"], source["vit_heads"], source["lora_alpha"]) == (112, 3, 4, 16)


# --- the published size ---


def test_published_size() -> None:
    """Parameter counts, by arithmetic on the published widths, and key names, without weights."""
    config = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000
    )
    with torch.device("meta"):
        model = MiniGPTv2Model(config, vit_dim=1408, vit_depth=39, vit_heads=16, image_size=448)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    width, mlp = 1408, 6144
    norms, attention = 4 * width, 3 * width * width + 2 * width + width * width + width
    block = norms + attention + width * mlp + mlp + mlp * width + width
    before = 3 * 14 * 14 * width + width + width + (1 + 32 * 32) * width
    d, inner = 4096, 11008
    llama_layer = 4 * d * d + 3 * d * inner + 2 * d
    assert counts == {
        "visual_encoder": before + 39 * block,  # 986 million
        "ln_vision": 2 * width,
        "llama_proj": 4 * width * d + d,
        "llama_model": 32000 * d + 32 * llama_layer + d,
    }
    names = set(model.state_dict())
    vit = torch.load(TINY / "eva_vit_g.pth", weights_only=True)
    of_a_block = {key.removeprefix("blocks.0.") for key in vit if key.startswith("blocks.0.")}
    expected = {f"visual_encoder.blocks.{i}.{key}" for i in range(39) for key in of_a_block}
    expected |= {f"visual_encoder.{key}" for key in vit if not key.startswith(("blocks.", "norm.", "head."))}
    assert {name for name in names if name.startswith("visual_encoder.")} == expected
    assert {"llama_proj.weight", "llama_proj.bias", "ln_vision.weight", "ln_vision.bias"} < names
    assert model.get_parameter("llama_model.layers.31.self_attn.q_proj.weight").shape == (4096, 4096)
