"""Models of published shapes and smaller ones, random weights, in memory; texts and pictures to feed them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from mmerank import Example
from mmerank_adapters.llava import Llava
from mmerank_adapters.minigpt_v2 import MiniGPTv2
from mmerank_adapters.minigpt_v2_model import MiniGPTv2Model

SIZES = ("tiny", "small", "full")
VOCABULARY = {"tiny": 400, "small": 32064, "full": 32064}
# Tokens per text: a spread as of short documents, chosen by hand.
LENGTHS = {"tiny": (12, 30), "small": (30, 139, 58, 342, 97, 205), "full": (30, 139, 58, 342, 97, 205)}
# Tokens behind the picture, of which 10 are the instruction.
PAIR_TOKENS = {"tiny": 20, "small": 120, "full": 120}

# small: OPT-125M; full: OPT-1.3B.
OPT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 400,
             "word_embed_proj_dim": 32, "max_position_embeddings": 256},
    "small": {},
    "full": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "ffn_dim": 8192,
             "word_embed_proj_dim": 2048},
}  # fmt: skip
# small has the token counts of the published models; full: LLaVA-1.5-7B and MiniGPT-v2.
LLAMA: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    "full": {},
}
CLIP: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
             "image_size": 56},
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
              "image_size": 336},
    "full": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
             "image_size": 336, "projection_dim": 768},
}  # fmt: skip
EVA: dict[str, dict[str, Any]] = {
    "tiny": {"vit_dim": 32, "vit_depth": 2, "vit_heads": 4, "image_size": 56},
    "small": {"vit_dim": 256, "vit_depth": 6, "vit_heads": 4, "image_size": 448},
    "full": {"vit_dim": 1408, "vit_depth": 39, "vit_heads": 16, "image_size": 448},
}


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One in which each of the words w5, w6, ... is a token."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
    words = {word: i for i, word in enumerate(special)} | {f"w{i}": i for i in range(len(special), size)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def words(count: int, size: int, rng: random.Random) -> str:
    """A text of `count` tokens."""
    return " ".join(f"w{rng.randrange(5, size)}" for _ in range(count))


def opt_checkpoint(folder: Path, size: str) -> None:
    """An OPT with its tokenizer, to be loaded."""
    torch.manual_seed(0)
    config = OPTConfig(**OPT[size])
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer(config.vocab_size).save_pretrained(folder)


def texts(count: int, size: str) -> list[Example]:
    """Texts of the lengths above."""
    rng, vocabulary = random.Random(0), OPT[size].get("vocab_size", 50272)
    lengths = [LENGTHS[size][i % len(LENGTHS[size])] for i in range(count)]
    return [Example(f"{i}", None, "", words(n, vocabulary, rng)) for i, n in enumerate(lengths)]


def pairs(count: int, size: str, folder: Path) -> list[Example]:
    """JPEG files of 640 x 480 pixels, smooth with some noise, and texts."""
    rng, draw = random.Random(0), np.random.default_rng(0)
    found = []
    for i in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(coarse) + draw.normal(0, 8, (480, 640, 3))
        path = folder / f"{i}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        n = PAIR_TOKENS[size]
        found.append(Example(f"{i}", path, words(10, VOCABULARY[size], rng), words(n - 10, VOCABULARY[size], rng)))
    return found


def llava_config(size: str) -> LlavaConfig:
    """Of a LLaVA-1.5."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(patch_size=14, **CLIP[size]),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY[size], max_position_embeddings=4096, rms_norm_eps=1e-5, **LLAMA[size]
        ),
        image_token_index=4,
    )


def llava(size: str, device: torch.device, dtype: torch.dtype) -> tuple[Llava, nn.Module]:
    """A LLaVA-1.5 and its LLM."""
    with _drawn_on(device, dtype):
        model = LlavaForConditionalGeneration(llava_config(size)).eval()
    side = CLIP[size]["image_size"]
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    adapter = Llava(model, tokenizer(VOCABULARY[size]), processor, name="llava", source={"weights": "random"})
    return adapter, model.model.language_model


def minigpt(size: str, device: torch.device, dtype: torch.dtype) -> tuple[MiniGPTv2, nn.Module]:
    """A MiniGPT-v2 and its LLM."""
    config = LlamaConfig(vocab_size=VOCABULARY[size], **LLAMA[size])
    with _drawn_on(device, dtype):
        model = MiniGPTv2Model(config, **EVA[size]).eval()
    model.visual_encoder.zero_key_biases()
    adapter = MiniGPTv2(model, tokenizer(VOCABULARY[size]), name="minigpt-v2", source={"weights": "random"})
    return adapter, model.llama_model


@contextmanager
def _drawn_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside have their weights drawn there, in that dtype."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
