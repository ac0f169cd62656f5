"""Tiny encoders of random weights, in the layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmerank.inputs.load import load_data

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TIMM_VIT = "test_vit"
MAX_TOKENS = 24


def vocabulary() -> list[str]:
    """The words of the demo's captions."""
    splitter = pre_tokenizers.Whitespace()
    captions = [example.response for example in load_data("demo")]  # type: ignore[union-attr]
    words = {word for caption in captions for word, _ in splitter.pre_tokenize_str(caption)}
    return ["<unk>", *sorted(words), "<s>", "</s>"]


def tokenizer(folder: Path, *, begins: bool, masks: bool) -> int:
    """A tokenizer of words in a folder; how many there are."""
    words = vocabulary()
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, words.index(word)) for word in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>", special_tokens=ends
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"] if masks else ["input_ids"],
    )
    made.save_pretrained(folder)
    return len(words)


def text_config(size: int) -> dict[str, Any]:
    """Of two layers."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": size,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


def save_clip(folder: Path) -> Path:
    """CLIP of transformers: CLS before the patches, causal text."""
    size = tokenizer(folder, begins=True, masks=True)
    config = transformers.CLIPConfig(text_config=text_config(size), vision_config=VISION, projection_dim=16)
    return _saved(transformers.CLIPModel, config, folder, "CLIPImageProcessor")


def save_siglip(folder: Path) -> Path:
    """SigLIP of transformers: no CLS, padding that is seen, and pooling by attention."""
    size = tokenizer(folder, begins=False, masks=False)
    config = transformers.SiglipConfig(text_config=text_config(size), vision_config=VISION)
    return _saved(transformers.SiglipModel, config, folder, "SiglipImageProcessor")


def save_siglip2(folder: Path) -> Path:
    """SigLIP 2 of transformers: patches of any number, padded behind, as the processor makes them."""
    size = tokenizer(folder, begins=False, masks=False)
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    config = transformers.Siglip2Config(text_config=text_config(size), vision_config=vision)
    _saved(transformers.Siglip2Model, config, folder, "")
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=20).save_pretrained(folder)
    return folder


def _saved(family: Any, config: Any, folder: Path, processor: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = family(config)
        for parameter in model.parameters():  # initialised so small that all texts are nearly one
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if not processor:
        return folder
    square = {"height": 32, "width": 32}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": square} if "CLIP" in processor else {"size": square}
    getattr(transformers, processor)(**sizes).save_pretrained(folder)
    return folder


def save_open_clip(folder: Path) -> str:
    """A model of open_clip in its own layout; its MODEL argument."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"open_clip:local-dir:{folder}"


def save_timm(file: Path, name: str = TIMM_VIT, **build: Any) -> str:
    """A model of timm in a file; its MODEL argument."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        torch.save(timm.create_model(name, pretrained=False, **build).state_dict(), file)
    return f"timm:{name}:{file}"
