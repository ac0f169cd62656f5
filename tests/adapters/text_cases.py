"""Tiny language models in the layouts they are published in: what every text adapter is held against."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from mmerank.models.loading import TextAdapter, load_text
from tests.conftest import GOLDEN

OPENELM = GOLDEN / "openelm_tiny"
LLAMA_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEXTS: list[str] = [sample["response"] for sample in json.loads((GOLDEN / "samples.json").read_text())]


@cache
def byte_level() -> dict[str, Any]:
    """The vocabulary and merges of a byte-level BPE, as in GPT-2, with OPT's special tokens in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    content: dict[str, Any] = json.loads(bpe.to_str())["model"]
    return content


def byte_level_files(folder: Path, **config: Any) -> None:
    """vocab.json and merges.txt, as OPT and Cerebras-GPT have them."""
    model = byte_level()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **config}))


def opt_tokenizer(folder: Path) -> None:
    special = {name: "</s>" for name in ("bos_token", "eos_token", "unk_token")} | {"pad_token": "<pad>"}
    byte_level_files(folder, **special, add_bos_token=True)


def gpt2_tokenizer(folder: Path) -> None:
    byte_level_files(folder, **{name: "</s>" for name in ("bos_token", "eos_token", "unk_token")})


def json_tokenizer(folder: Path) -> None:
    """One tokenizer.json, as GPT-NeoX and Qwen have it."""
    gpt2_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def llama_tokenizer(folder: Path) -> None:
    for name in LLAMA_TOKENIZER:
        shutil.copy(OPENELM / name, folder)


def bert_tokenizer(folder: Path) -> None:
    letters = sorted({letter for text in TEXTS for letter in text.lower() if not letter.isspace()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "and", *letters, *("##" + c for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def noisy(model: Any, seed: int = 0) -> Any:
    """The model with noise on every parameter, so that a norm's weight left out, say, shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@dataclass(frozen=True)
class Reference:
    """What the adapter did not compute: ids, states and logits of one text."""

    ids: list[int]
    states: list[Tensor]
    logits: Tensor | None


@dataclass(frozen=True)
class TextCase:
    """One tiny model of transformers.

    `opening` and `ending` are the special tokens that stand around a text, `dropout` whether the configuration
    has any.
    """

    name: str
    model_class: str
    config_class: str
    config: Mapping[str, Any]
    tokenizer: Callable[[Path], None]
    opening: tuple[int, ...] = ()
    ending: tuple[int, ...] = ()
    dropout: bool = False
    causal: bool = True
    max_tokens: int = 256
    tolerance: float = 1e-6

    @cached_property
    def folder(self) -> Path:
        folder = Path(self._temporary.name)
        self.built().save_pretrained(folder)
        self.tokenizer(folder)
        return folder

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix=f"mmerank-{self.name}-")

    def built(self, **config: Any) -> Any:
        """The model as transformers builds it."""
        settings = getattr(transformers, self.config_class)(**{**self.config, **config})
        return noisy(getattr(transformers, self.model_class)(settings))

    @cached_property
    def adapter(self) -> TextAdapter:
        return load_text(self.folder, device="cpu")

    @cached_property
    def references(self) -> list[Reference]:
        """By transformers' own forward over one text at a time, all hidden states kept."""
        auto = transformers.AutoModelForCausalLM if self.causal else transformers.AutoModel
        model = auto.from_pretrained(self.folder, trust_remote_code=False).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        return [self._reference(model, tokenizer, text) for text in TEXTS]

    def _reference(self, model: Any, tokenizer: Any, text: str) -> Reference:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            output = model(**encoded, output_hidden_states=True)
        states = [h[0] for h in output.hidden_states]
        return Reference(encoded["input_ids"][0].tolist(), states, output.logits[0] if self.causal else None)


class OpenELMCase(TextCase):
    """The golden OpenELM; its reference is what the published code gave."""

    @cached_property
    def folder(self) -> Path:
        return OPENELM

    @cached_property
    def golden(self) -> dict[str, NDArray[Any]]:
        with np.load(OPENELM / "golden.npz") as arrays:
            return dict(arrays)

    @cached_property
    def references(self) -> list[Reference]:
        names = ("embeddings", "layer0", "layer1", "hidden")
        return [
            Reference(
                self.golden[f"txt_resp_bos/{i}/ids"].tolist(),
                [torch.from_numpy(self.golden[f"txt_resp_bos/{i}/{name}"]) for name in names],
                torch.from_numpy(self.golden[f"txt_resp_bos/{i}/logits"]),
            )
            for i in range(len(TEXTS))
        ]


_OPT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 256,
    "word_embed_proj_dim": 32,
}
_LLAMA = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
_POST_NORM = {"hidden_size": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False}
_GPT2 = {"vocab_size": 400, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
_NEOX = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
_BERT = {**_NEOX, "vocab_size": 120}

OPT = TextCase("opt-125m", "OPTForCausalLM", "OPTConfig", _OPT, opt_tokenizer, (2,), dropout=True)
BERT = TextCase(
    "bert", "BertModel", "BertConfig", _BERT, bert_tokenizer, (2,), (3,), dropout=True, causal=False, tolerance=5e-6
)
LLAMA = TextCase("llama", "LlamaForCausalLM", "LlamaConfig", _LLAMA, llama_tokenizer, (1,))
GPT2 = TextCase("cerebras-gpt", "GPT2LMHeadModel", "GPT2Config", _GPT2, gpt2_tokenizer, dropout=True)
OPENELM_CASE = OpenELMCase("openelm", "", "", {}, llama_tokenizer, (1,), max_tokens=2048, tolerance=1e-4)
TEXT_CASES = [
    OPT,
    TextCase("opt-350m", "OPTForCausalLM", "OPTConfig", _OPT | _POST_NORM, opt_tokenizer, (2,), dropout=True),
    GPT2,
    LLAMA,
    TextCase("gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", _NEOX, json_tokenizer),
    TextCase("qwen2", "Qwen2ForCausalLM", "Qwen2Config", _LLAMA | {"vocab_size": 400}, json_tokenizer),
    TextCase("qwen3", "Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"vocab_size": 400}, json_tokenizer),
    BERT,
    OPENELM_CASE,
]
