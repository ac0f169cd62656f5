"""Tiny random models of many multimodal families, with processors, built from configurations; no file is kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

WIDTH, VISION, PATCH = 32, 24, 14
IMAGE = "<image>"
TEMPLATE = (
    "{%- for turn in messages %}{{ '<' + turn.role + '>' }}{% for part in turn.content %}"
    "{% if part.type == 'image' %}{{ 'PLACEHOLDER' }}{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
Rows = Callable[[Any, dict[str, Any], Any], Tensor]


def words(*special: str, bos: bool = True, **named: Any) -> Any:
    """A byte tokenizer with these special tokens; `named` ones become its attributes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    every = dict.fromkeys(["<pad>", "<s>", "</s>", *named.values(), *special])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in every])
    if bos:
        around = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=around)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named or None,
        model_max_length=2048,
    )


def llm(model_type: str, **changed: Any) -> dict[str, Any]:
    """A language model's configuration."""
    plain = {
        "model_type": model_type,
        "vocab_size": 384,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "pad_token_id": 256,
        "bos_token_id": 257,
        "eos_token_id": 258,
    }
    return plain | changed


def vit(model_type: str, **changed: Any) -> dict[str, Any]:
    """A vision encoder's configuration, of 4 x 4 patches."""
    plain = {
        "model_type": model_type,
        "hidden_size": VISION,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 4 * PATCH,
        "patch_size": PATCH,
    }
    return plain | changed


def mrope(*section: int, **further: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), **further}


def side(count: int = 4) -> dict[str, int]:
    return {"height": count * PATCH, "width": count * PATCH}


@dataclass(frozen=True)
class Family:
    """How a family is built, and where its rows are, said by hand.

    Attributes:
        build: Configuration, processor, and what stands for a picture.
        vision: Model, what the processor gave, what its `get_image_features` gives -> rows of the vision encoder.
        connector: The same for the connector's output.
    """

    build: Callable[[], tuple[dict[str, Any], Any, str]]
    vision: Rows = lambda model, inputs, features: features.last_hidden_state
    connector: Rows = lambda model, inputs, features: features.pooler_output


FAMILIES: dict[str, Family] = {}


def family(vision: Rows = Family.vision, connector: Rows = Family.connector) -> Callable[[Any], Any]:
    def named(build: Callable[[], tuple[dict[str, Any], Any, str]]) -> Any:
        FAMILIES[build.__name__] = Family(build, vision, connector)
        return build

    return named


def core(model: Any) -> Any:
    return getattr(model, "model", model)


def towered(layer: int = 0, skip: int = 0) -> Rows:
    """Rows of a layer of the vision tower, run by hand on all tiles; 0 for its output, behind a last norm."""

    def rows(model: Any, inputs: dict[str, Any], features: Any) -> Tensor:
        tower = getattr(core(model), "vision_tower", None) or core(model).vision_model
        tiles = inputs["pixel_values"].flatten(0, -4)
        output = tower(tiles, output_hidden_states=True)
        states: Tensor = output.hidden_states[layer] if layer else output.last_hidden_state
        return states[:, skip:]

    return rows


def put_out(path: str) -> Rows:
    """What one module of the model puts out for a picture; of a map of features, its places."""

    def rows(model: Any, inputs: dict[str, Any], features: Any) -> Tensor:
        seen: list[Tensor] = []
        handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(output))
        model.get_image_features(*(inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs))
        handle.remove()
        (h,) = seen
        return h.flatten(2).mT if h.ndim == 4 else h

    return rows


def projected(layer: int = 0, skip: int = 0) -> Rows:
    """What the projector makes of these rows."""
    of = towered(layer, skip)
    return lambda model, inputs, features: core(model).multi_modal_projector(of(model, inputs, features))


PINS = [[56, 112], [112, 56], [112, 112]]


@family(towered(-2, 1), projected(-2, 1))
def llava_next() -> tuple[dict[str, Any], Any, str]:
    tokenizer = words(IMAGE)
    pictures = hf.LlavaNextImageProcessor(size={"shortest_edge": 56}, crop_size=side(), image_grid_pinpoints=PINS)
    processor = hf.LlavaNextProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    vision = vit("clip_vision_model", projection_dim=8)
    parts = {"vision_config": vision, "text_config": llm("mistral"), "image_grid_pinpoints": PINS}
    return {"model_type": "llava_next", **parts, "image_token_index": 259, "image_seq_length": 16}, processor, IMAGE


@family(towered(-1), projected(-1))
def llava_onevision() -> tuple[dict[str, Any], Any, str]:
    tokenizer = words(IMAGE, "<video>", bos=False)
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=side(), image_grid_pinpoints=PINS),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=side()),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    vision = vit("siglip_vision_model", vision_use_head=False)
    parts = {"vision_config": vision, "text_config": llm("qwen2"), "image_grid_pinpoints": PINS}
    tokens = {"image_token_index": 259, "video_token_index": 260}
    return {"model_type": "llava_onevision", **parts, **tokens}, processor, IMAGE


QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
QWEN_IDS = {f"{of}_token_id": 259 + i for i, of in enumerate(("image", "video", "vision_start", "vision_end"))}
QWEN_SIGN = "<|vision_start|><|image_pad|><|vision_end|>"


def merging(patch: int, kind: str = "Qwen2VLImageProcessor") -> Any:
    area = (2 * patch) ** 2
    size = {"shortest_edge": 4 * area, "longest_edge": 16 * area}
    return getattr(hf, kind)(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)


def qwen(name: str, vision: dict[str, Any], text: dict[str, Any], processor: Any) -> tuple[dict[str, Any], Any, str]:
    return {"model_type": name, "vision_config": vision, "text_config": text, **QWEN_IDS}, processor, QWEN_SIGN


@family()
def qwen2_vl() -> tuple[dict[str, Any], Any, str]:
    processor = hf.Qwen2VLProcessor(merging(14), words(*QWEN, bos=False), hf.Qwen2VLVideoProcessor())
    vision: dict[str, Any] = {
        "depth": 2,
        "embed_dim": VISION,
        "hidden_size": WIDTH,
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": 14,
    }
    return qwen("qwen2_vl", vision, llm("qwen2_vl_text", rope_parameters=mrope(2, 3, 3)), processor)


@family()
def qwen2_5_vl() -> tuple[dict[str, Any], Any, str]:
    processor = hf.Qwen2_5_VLProcessor(merging(14), words(*QWEN, bos=False), hf.Qwen2VLVideoProcessor())
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": VISION,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 14,
    }
    vision |= {"out_hidden_size": WIDTH, "window_size": 56, "fullatt_block_indexes": [1]}
    return qwen("qwen2_5_vl", vision, llm("qwen2_5_vl_text", rope_parameters=mrope(2, 3, 3)), processor)


@family()
def qwen3_vl() -> tuple[dict[str, Any], Any, str]:
    processor = hf.Qwen3VLProcessor(merging(16), words(*QWEN, bos=False), hf.Qwen3VLVideoProcessor())
    vision: dict[str, Any] = {
        "depth": 3,
        "hidden_size": VISION,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 16,
    }
    vision |= {"out_hidden_size": WIDTH, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    rope = mrope(4, 2, 2, mrope_interleaved=True)
    return qwen("qwen3_vl", vision, llm("qwen3_vl_text", rope_parameters=rope), processor)


@family(towered(skip=1))
def internvl() -> tuple[dict[str, Any], Any, str]:
    named: dict[str, Any] = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    tokenizer = words(bos=False, **named, video_token="<video>")
    tiles = hf.GotOcr2ImageProcessor(size=side(), crop_to_patches=True, min_patches=1, max_patches=3)
    processor = hf.InternVLProcessor(tiles, tokenizer, hf.InternVLVideoProcessor(size=side()), image_seq_length=4)
    vision = vit("internvl_vision", image_size=[56, 56], patch_size=[PATCH, PATCH])
    config = {"model_type": "internvl", "vision_config": vision, "text_config": llm("qwen2")}
    return config | {"image_token_id": 261, "image_seq_length": 4}, processor, "<IMG_CONTEXT>"


@family()
def idefics3() -> tuple[dict[str, Any], Any, str]:
    grid = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    tokenizer = words(IMAGE, "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *grid)
    tiles = hf.Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    config: dict[str, Any] = {
        "model_type": "idefics3",
        "vision_config": vit("idefics3_vision"),
        "text_config": llm("llama"),
    }
    config |= {"image_token_id": 259, "scale_factor": 2, "pad_token_id": 256}
    return config, hf.Idefics3Processor(tiles, tokenizer, image_seq_len=4), IMAGE


@family()
def gemma3() -> tuple[dict[str, Any], Any, str]:
    named: dict[str, Any] = {"image_token": "<soft>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    processor = hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=side()), words(**named), image_seq_length=4)
    text = llm("gemma3_text", query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"])
    vision = vit("siglip_vision_model", vision_use_head=False)
    config = {"model_type": "gemma3", "vision_config": vision, "text_config": text, "mm_tokens_per_image": 4}
    ids = {"image_token_index": 259, "boi_token_index": 260, "eoi_token_index": 261}
    return config | ids, processor, "<start_of_image>"


@family()
def paligemma() -> tuple[dict[str, Any], Any, str]:
    pictures = hf.SiglipImageProcessor(size=side())
    pictures.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(pictures, words(IMAGE))
    vision = vit("siglip_vision_model", vision_use_head=False, projection_dim=WIDTH)
    config = {"model_type": "paligemma", "vision_config": vision, "text_config": llm("gemma"), "hidden_size": WIDTH}
    return config | {"projection_dim": WIDTH, "vocab_size": 384, "image_token_index": 259}, processor, IMAGE


def pixtral_processor(merge: int) -> Any:
    size = {"height": PATCH * merge, "width": PATCH * merge}
    pictures = hf.PixtralImageProcessor(size={"longest_edge": 84}, patch_size=size)
    tokenizer = words("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return hf.PixtralProcessor(pictures, tokenizer, patch_size=PATCH, spatial_merge_size=merge)


PIXTRAL = vit("pixtral", image_size=84, hidden_size=32, head_dim=16)


@family()
def mistral3() -> tuple[dict[str, Any], Any, str]:
    config = {"model_type": "mistral3", "vision_config": PIXTRAL, "text_config": llm("mistral")}
    return config | {"image_token_index": 259, "spatial_merge_size": 2}, pixtral_processor(2), "[IMG]"


@family()
def pixtral() -> tuple[dict[str, Any], Any, str]:
    """Another encoder than CLIP in a type that has an adapter of its own."""
    config = {
        "model_type": "llava",
        "vision_config": PIXTRAL,
        "text_config": llm("mistral"),
        "image_token_index": 259,
    }
    config |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    return config, pixtral_processor(1), "[IMG]"


@family(towered(-1))
def aya_vision() -> tuple[dict[str, Any], Any, str]:
    tokenizer = words(IMAGE, "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
    tiles = hf.GotOcr2ImageProcessor(size=side(), crop_to_patches=True, min_patches=1, max_patches=3)
    processor = hf.AyaVisionProcessor(tiles, tokenizer, patch_size=PATCH, img_size=56, downsample_factor=2)
    text = llm("cohere2", layer_types=["sliding_attention", "full_attention"], sliding_window=32)
    vision = vit("siglip_vision_model", vision_use_head=False)
    config = {"model_type": "aya_vision", "vision_config": vision, "text_config": text, "image_token_index": 262}
    return config | {"downsample_factor": 2, "alignment_intermediate_size": 48}, processor, IMAGE


@family(put_out("model.visual.post_layernorm"))
def glm4v() -> tuple[dict[str, Any], Any, str]:
    signs = [
        f"<|{of}|>" for of in ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
    ]
    tokenizer = words(*signs, bos=False)
    processor = hf.Glm4vProcessor(merging(14, "Glm4vImageProcessor"), tokenizer, hf.Glm4vVideoProcessor())
    vision: dict[str, Any] = {"depth": 2, "hidden_size": VISION, "num_heads": 2, "image_size": 56, "patch_size": 14}
    vision |= {"out_hidden_size": WIDTH, "intermediate_size": 48}
    text = llm("glm4v_text", rope_parameters=mrope(2, 1, 1, partial_rotary_factor=0.5))
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {f"{name}_token_id": 259 + i for i, name in enumerate(names)}
    config = {"model_type": "glm4v", "vision_config": vision, "text_config": text, **ids}
    return config, processor, "<|begin_of_image|><|image|><|end_of_image|>"


@family(
    lambda model, inputs, features: _real_tiles(inputs, _mllama(model, inputs)),
    lambda model, inputs, features: _real_tiles(inputs, model.model.multi_modal_projector(_mllama(model, inputs))),
)
def mllama() -> tuple[dict[str, Any], Any, str]:
    processor = hf.MllamaProcessor(hf.MllamaImageProcessor(size=side(), max_image_tiles=4), words("<|image|>"))
    vision: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2}
    vision |= {"intermediate_size": 32, "vision_output_dim": 64, "image_size": 56, "patch_size": PATCH}
    vision |= {"max_num_tiles": 4, "intermediate_layers_indices": [0]}
    text = llm("mllama_text_model", num_hidden_layers=3, cross_attention_layers=[1])
    config = {"model_type": "mllama", "vision_config": vision, "text_config": text, "image_token_index": 259}
    return config, processor, "<|image|>"


def _mllama(model: Any, inputs: dict[str, Any]) -> Tensor:
    names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
    states: Tensor = model.model.vision_model(**{name: inputs[name] for name in names}).last_hidden_state
    return states


def _real_tiles(inputs: dict[str, Any], states: Tensor) -> Tensor:
    return states[0, 0, inputs["aspect_ratio_mask"][0, 0].bool()]


def qformer(model_type: str) -> dict[str, Any]:
    plain = {"model_type": model_type, "vocab_size": 384, "hidden_size": 16, "num_hidden_layers": 1}
    plain |= {"num_attention_heads": 2, "intermediate_size": 32, "encoder_hidden_size": VISION}
    return plain | {"cross_attention_frequency": 1, "max_position_embeddings": 512}


OPT = {"model_type": "opt", "vocab_size": 384, "hidden_size": WIDTH, "num_hidden_layers": 2, "ffn_dim": 48}
OPT |= {"num_attention_heads": 2, "max_position_embeddings": 512, "word_embed_proj_dim": WIDTH}


@family(
    lambda model, inputs, features: model.vision_model(inputs["pixel_values"]).last_hidden_state,
    lambda model, inputs, features: model.language_projection(_queries(model, inputs)),
)
def blip_2() -> tuple[dict[str, Any], Any, str]:
    processor = hf.Blip2Processor(hf.BlipImageProcessor(size=side()), words(IMAGE), num_query_tokens=4)
    parts = {"vision_config": vit("blip_2_vision_model"), "qformer_config": qformer("blip_2_qformer")}
    config = {"model_type": "blip-2", **parts, "text_config": OPT, "num_query_tokens": 4, "image_token_index": 259}
    return config, processor, ""


def _queries(model: Any, inputs: dict[str, Any]) -> Tensor:
    seen = model.vision_model(inputs["pixel_values"]).last_hidden_state
    found: Tensor = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=seen).last_hidden_state
    return found


@family()
def janus() -> tuple[dict[str, Any], Any, str]:
    named: dict[str, Any] = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    processor = hf.JanusProcessor(
        hf.JanusImageProcessor(size=side(), min_size=14), words(**named), num_image_tokens=16
    )
    vision = vit("janus_vision_model", projection_dim=WIDTH, num_image_tokens=16)
    codes: dict[str, Any] = {
        "embed_dim": 4,
        "num_embeddings": 8,
        "latent_channels": 4,
        "base_channels": 32,
        "num_patches": 4,
    }
    codes |= {"channel_multiplier": [1], "num_res_blocks": 1, "projection_dim": 8, "image_token_embed_dim": 8}
    config = {"model_type": "janus", "text_config": llm("llama"), "vision_config": vision, "vq_config": codes}
    return config | {"image_token_id": 259}, processor, "<image_placeholder>"


@family(
    lambda model, inputs, features: features.last_hidden_state,
    lambda model, inputs, features: features.pooler_output,
)
def deepseek_vl_hybrid() -> tuple[dict[str, Any], Any, str]:
    """Two encoders, one behind the other in time but not in what they read."""
    pictures = hf.DeepseekVLHybridImageProcessor(
        size=side(), min_size=14, high_res_size={"height": 128, "width": 128}
    )
    tokenizer = words(image_token="<image_placeholder>")
    processor = hf.DeepseekVLHybridProcessor(pictures, tokenizer, num_image_tokens=16)
    vision = vit("siglip_vision_model", vision_use_head=False)
    high = vit("sam_vision_model", image_size=128, patch_size=16, output_channels=8, window_size=4, mlp_dim=32)
    high |= {"global_attn_indexes": [1], "num_pos_feats": 8}
    config = {"model_type": "deepseek_vl_hybrid", "vision_config": vision, "high_res_vision_config": high}
    return config | {"text_config": llm("llama"), "image_token_id": 259}, processor, "<image_placeholder>"


@family(
    lambda model, inputs, features: model.git.image_encoder(inputs["pixel_values"]).last_hidden_state,
    lambda model, inputs, features: model.git.visual_projection(
        model.git.image_encoder(inputs["pixel_values"]).last_hidden_state
    ),
)
def git() -> tuple[dict[str, Any], Any, str]:
    """The model itself puts the picture's rows before the tokens."""
    processor = hf.GitProcessor(hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=side()), words())
    config = llm("git", vision_config=vit("git_vision_model"), max_position_embeddings=512)
    del config["head_dim"], config["num_key_value_heads"]
    return config, processor, ""


@family(
    lambda model, inputs, features: torch.nn.functional.normalize(
        model.vision_model.model.post_layernorm(model.vision_model(inputs["pixel_values"]).last_hidden_state), dim=-1
    ),
    lambda model, inputs, features: features.pooler_output,
)
def kosmos_2() -> tuple[dict[str, Any], Any, str]:
    """Positions are added to the picture's rows before the first block."""
    signs = ("image", "phrase", "object", "grounding")
    around = [sign for name in signs for sign in (f"<{name}>", f"</{name}>")]
    tokenizer = words(*around, "</delimiter_of_multi_objects/>")
    tokenizer.unk_token = "</s>"
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=side())
    processor = hf.Kosmos2Processor(pictures, tokenizer, num_patch_index_tokens=16)
    text: dict[str, Any] = {"vocab_size": 384, "embed_dim": WIDTH, "layers": 2, "ffn_dim": 48, "attention_heads": 2}
    text |= {"max_position_embeddings": 512, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
    parts = {"vision_config": vit("kosmos_2_vision_model"), "text_config": text}
    return {"model_type": "kosmos-2", **parts, "latent_query_num": 64}, processor, ""


@family(put_out("model.vqmodel.quant_conv"))
def chameleon() -> tuple[dict[str, Any], Any, str]:
    """A picture becomes tokens of the vocabulary."""
    named: dict[str, Any] = {"image_token": IMAGE, "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    size = {"height": 64, "width": 64}
    pictures = hf.ChameleonImageProcessor(size={"shortest_edge": 64}, crop_size=size)
    processor = hf.ChameleonProcessor(pictures, words(**named), image_seq_length=16, image_token=IMAGE)
    codes: dict[str, Any] = {"embed_dim": 8, "num_embeddings": 32, "latent_channels": 8, "resolution": 64}
    codes |= {"base_channels": 32, "channel_multiplier": [1] * 5, "num_res_blocks": 1}
    config = llm("chameleon", vq_config=codes, image_token_id=259)
    del config["head_dim"]
    names = {f"IMGIMG{chr(65 + i // 10)}{chr(65 + i % 10)}Z": 300 + i for i in range(32)}
    return config | {"vocabulary_map": {IMAGE: 259, **names}}, processor, IMAGE


@family()
def t5gemma2() -> tuple[dict[str, Any], Any, str]:
    """An encoder-decoder whose encoder has the vision encoder in it."""
    named: dict[str, Any] = {"image_token": "<soft>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    processor = hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=side()), words(**named), image_seq_length=4)
    kinds = {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]}
    encoder = {"text_config": llm("t5gemma2_text", **kinds), "mm_tokens_per_image": 4, "vocab_size": 384}
    encoder["vision_config"] = vit("siglip_vision_model", vision_use_head=False)
    encoder |= {"image_token_index": 259, "boi_token_index": 260, "eoi_token_index": 261}
    config = {"model_type": "t5gemma2", "encoder": encoder, "decoder": llm("t5gemma2_decoder", **kinds)}
    return (
        config | {"image_token_index": 259, "eoi_token_index": 261, "vocab_size": 384},
        processor,
        "<start_of_image>",
    )


@family()
def deepseek_vl() -> tuple[dict[str, Any], Any, str]:
    pictures = hf.DeepseekVLImageProcessor(size=side(), min_size=14)
    processor = hf.DeepseekVLProcessor(pictures, words(image_token="<image_placeholder>"), num_image_tokens=16)
    vision = vit("siglip_vision_model", vision_use_head=False)
    config = {"model_type": "deepseek_vl", "vision_config": vision, "text_config": llm("llama")}
    return config | {"image_token_id": 259}, processor, "<image_placeholder>"


@family()
def muse_glimmer() -> tuple[dict[str, Any], Any, str]:
    """A norm without weights ends the connector."""
    own = ("<|image_start|>", "<|image_end|>", "<|video|>", "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>")
    pictures = hf.MuseGlimmerImageProcessor(max_image_tokens=36)
    processor = hf.MuseGlimmerProcessor(pictures, hf.MuseGlimmerVideoProcessor(), words("<|patch|>", *own))
    tower: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    tower |= {"patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 256}
    tower["layer_types"] = ["window_attention", "full_attention", "window_attention"]
    text = llm("muse_glimmer_text", layer_types=["sliding_attention", "full_attention"], layer_rope_theta=[1e4, 0])
    config: dict[str, Any] = {
        "model_type": "muse_glimmer",
        "vision_config": tower,
        "text_config": text | {"sliding_window": 64},
    }
    sizes = {"out_hidden_size": 128, "projector_hidden_size": 48, "image_token_id": 259, "video_token_id": 262}
    return config | sizes, processor, "<|patch|>"


@family()
def cosmos3_edge() -> tuple[dict[str, Any], Any, str]:
    """Its processor says which tokens are a picture's only where it is asked, and the model must know."""
    signs = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    pixels = {"shortest_edge": 4 * (2 * PATCH) ** 2, "longest_edge": 36 * (2 * PATCH) ** 2}
    pictures = hf.Cosmos3EdgeImageProcessor(size=pixels, patch_size=PATCH)
    processor = hf.Cosmos3EdgeProcessor(pictures, words(*signs), hf.Cosmos3EdgeVideoProcessor())
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3}
    text = llm("cosmos3_edge_text", rope_parameters=mrope(4, 2, 2))
    config: dict[str, Any] = {
        "model_type": "cosmos3_edge",
        "vision_config": tower | {"num_patches": 64, "patch_size": PATCH},
    }
    config |= {"text_config": text, "projector_hidden_size": 48, "image_token_id": 259, "video_token_id": 260}
    ends = {"vision_start_token_id": 261, "vision_end_token_id": 262}
    return config | ends, processor, "<|vision_start|><|image_pad|><|vision_end|>"


@cache
def built(name: str) -> tuple[Any, Any, str]:
    """Model, processor and what stands for a picture; weights follow from the name."""
    stated, processor, placeholder = FAMILIES[name].build()
    config = hf.AutoConfig.for_model(**stated)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:  # as it is drawn, attention is nearly uniform and rows nearly equal
                torch.nn.init.normal_(parameter, std=(parameter.shape[0] / parameter.numel()) ** 0.5)
            elif "gate" in key:
                torch.nn.init.constant_(parameter, 0.7)
    if placeholder:
        processor.chat_template = TEMPLATE.replace("PLACEHOLDER", placeholder)
    return model, processor, placeholder


def saved(name: str, folder: Path) -> Path:
    """The checkpoint in a folder."""
    model, processor, _ = built(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
