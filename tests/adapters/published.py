"""Families at the sizes of published checkpoints: as they are without weights, and narrowed to what runs in a test.

Sizes are those of the checkpoints' config.json and preprocessor_config.json, written down from memory; `billions` is
what their model cards give as number of parameters, which holds them to it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

from tests.adapters.tiny_models import IMAGE, QWEN, QWEN_IDS, VISION, WIDTH, mrope, words

# What is made small, by the name of the part; depth, patches, tiles and merges stay as published.
_NARROW: dict[str, dict[str, Any]] = {
    "vision_config": {"hidden_size": VISION, "intermediate_size": 32, "num_attention_heads": 2, "num_heads": 2},
    "text_config": {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 384,
    },
}


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        config: Its configuration, with token ids of a small vocabulary.
        processor: Makes its processor, of its sizes.
        billions: Parameters.
        rope: Of the narrowed LLM, where widths are in it.
    """

    config: dict[str, Any]
    processor: Callable[[], Any]
    billions: float
    rope: dict[str, Any] | None = None

    def whole(self) -> Any:
        """The model as published, on the meta device."""
        with torch.device("meta"):
            return _model(self.config)

    def narrow(self) -> Any:
        """The same modules with few channels, and random weights."""
        config = copy.deepcopy(self.config)
        for part, sizes in _NARROW.items():
            config[part] |= {name: of for name, of in sizes.items() if name in config[part] or name == "head_dim"}
        if "out_hidden_size" in config["vision_config"]:
            config["vision_config"]["out_hidden_size"] = WIDTH
        if self.rope:
            config["text_config"]["rope_parameters"] = self.rope
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _model(config)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=(parameter.shape[0] / parameter.numel()) ** 0.5)
        return model


def _model(config: dict[str, Any]) -> Any:
    auto = hf.AutoModelForImageTextToText
    return auto.from_config(hf.AutoConfig.for_model(**copy.deepcopy(config)), dtype=torch.float32).eval()


def _qwen(patch: int, least: int, kind: str, video: str) -> Any:
    size = {"shortest_edge": least, "longest_edge": 16384 * (2 * patch) ** 2}
    pictures = hf.Qwen2VLImageProcessor(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)
    return getattr(hf, kind)(pictures, words(*QWEN, bos=False), getattr(hf, video)())


def _internvl() -> Any:
    size = {"height": 448, "width": 448}
    named: dict[str, Any] = {"start_image_token": "<img>", "end_image_token": "</img>"}
    tokenizer = words(bos=False, **named, context_image_token="<IMG_CONTEXT>", video_token="<video>")
    tiles = hf.GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=12)
    return hf.InternVLProcessor(tiles, tokenizer, hf.InternVLVideoProcessor(size=size), image_seq_length=256)


def _gemma3() -> Any:
    named: dict[str, Any] = {"image_token": "<soft>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    pictures = hf.Gemma3ImageProcessor(size={"height": 896, "width": 896})
    return hf.Gemma3Processor(pictures, words(**named), image_seq_length=256)


_PINS = [[384 * i, 384 * j] for i, j in itertools.product(range(1, 7), repeat=2)]


def _onevision() -> Any:
    size = {"height": 384, "width": 384}
    return hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_PINS),
        words(IMAGE, "<video>", bos=False),
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )


def _smolvlm() -> Any:
    grid = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    signs: dict[str, Any] = {"image_token": IMAGE, "global_image_token": "<global-img>"}
    signs["fake_image_token"] = "<fake_token_around_image>"
    tokenizer = words("<end_of_utterance>", *grid, **signs)
    tiles = hf.SmolVLMImageProcessor(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})
    video = hf.SmolVLMVideoProcessor(size={"longest_edge": 384}, max_image_size={"longest_edge": 384})
    return hf.SmolVLMProcessor(tiles, tokenizer, video, image_seq_len=81)


def _text(model_type: str, width: int, inner: int, depth: int, heads: int, groups: int, words: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": depth, "vocab_size": words}
    signs = {"pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
    return {"model_type": model_type, **sizes, "num_attention_heads": heads, "num_key_value_heads": groups, **signs}


def _siglip(depth: int, size: int, **changed: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": depth, "num_attention_heads": 16}
    return {"model_type": "siglip_vision_model", **sizes, "image_size": size, "patch_size": 14, **changed}


PUBLISHED = {
    "Qwen2.5-VL-7B": Published(
        {
            "model_type": "qwen2_5_vl",
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 3584,
                "patch_size": 14,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            "text_config": {
                **_text("qwen2_5_vl_text", 3584, 18944, 28, 28, 4, 152064),
                "rope_parameters": mrope(16, 24, 24),
            },
            "tie_word_embeddings": False,
            **QWEN_IDS,
        },
        lambda: _qwen(14, 4 * 28 * 28, "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        8.29,
        rope=mrope(2, 3, 3),
    ),
    "Qwen3-VL-8B": Published(
        {
            "model_type": "qwen3_vl",
            "vision_config": {
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_heads": 16,
                "out_hidden_size": 4096,
                "patch_size": 16,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [8, 16, 24],
            },
            "text_config": {
                **_text("qwen3_vl_text", 4096, 12288, 36, 32, 8, 151936),
                "head_dim": 128,
                "rope_parameters": mrope(24, 20, 20, mrope_interleaved=True),
            },
            "tie_word_embeddings": False,
            **QWEN_IDS,
        },
        lambda: _qwen(16, 256 * 256, "Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        8.77,
        rope=mrope(4, 2, 2, mrope_interleaved=True),
    ),
    "InternVL3-8B": Published(
        {
            "model_type": "internvl",
            "vision_config": {
                "model_type": "internvl_vision",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": [448, 448],
                "patch_size": [14, 14],
                "attention_bias": True,
            },
            "text_config": {**_text("qwen2", 3584, 18944, 28, 28, 4, 151674), "tie_word_embeddings": False},
            "tie_word_embeddings": False,
            "image_token_id": 261,
            "image_seq_length": 256,
        },
        _internvl,
        7.94,
    ),
    "Gemma-3-4B": Published(
        {
            "model_type": "gemma3",
            "vision_config": _siglip(27, 896, vision_use_head=False),
            "text_config": {
                **_text("gemma3_text", 2560, 10240, 34, 8, 4, 262208),
                "head_dim": 256,
                "sliding_window": 1024,
            },
            "mm_tokens_per_image": 256,
            "image_token_index": 259,
            "boi_token_index": 260,
            "eoi_token_index": 261,
        },
        _gemma3,
        4.30,
    ),
    "LLaVA-OneVision-7B": Published(
        {
            "model_type": "llava_onevision",
            "vision_config": _siglip(26, 384, vision_use_head=False),
            "text_config": {**_text("qwen2", 3584, 18944, 28, 28, 4, 152128), "tie_word_embeddings": False},
            "image_grid_pinpoints": _PINS,
            "image_token_index": 259,
            "video_token_index": 260,
        },
        _onevision,
        8.03,
    ),
    "SmolVLM2-2.2B": Published(
        {
            "model_type": "smolvlm",
            "vision_config": _siglip(27, 384, model_type="smolvlm_vision"),
            "text_config": {**_text("llama", 2048, 8192, 24, 32, 32, 49280), "head_dim": 64},
            "scale_factor": 3,
            "image_token_id": 259,
            "tie_word_embeddings": False,
            "pad_token_id": 256,
        },
        _smolvlm,
        2.25,
    ),
}
