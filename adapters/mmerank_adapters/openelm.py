"""OpenELM, from the published safetensors and a tokenizer of Llama-2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmerank.errors import ModelError
from mmerank.files import json_of
from mmerank.models.checkpoints import commit_of, configuration, configuration_fingerprint
from mmerank.models.hooks import Point
from mmerank.models.loading import tokenizer_fingerprint
from mmerank.models.plausible import check_fetched
from mmerank.models.soundness import check_files, check_finite
from mmerank.models.special_tokens import size_cautions, special_cautions, stated_ids
from mmerank.models.stored import unread
from mmerank.models.tokenizer import Loaded, load_tokenizer, stated
from mmerank.models.untrained import drawn_with, place_like
from mmerank_adapters.openelm_config import OpenELMConfig
from mmerank_adapters.openelm_model import OpenELMModel

_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class OpenELM:
    """OpenELM (arXiv:2404.14619) without its remote code, which needs an old transformers and is never run.

    The published repositories hold no tokenizer; they were trained with Llama-2's. It is given as `tokenizer`, a
    directory or a hub id. Ids are one `<s>` and the text, as the published model card has it.
    """

    model_types = ("openelm",)
    predicts_next = True

    def __init__(
        self,
        model: OpenELMModel,
        config: OpenELMConfig,
        tokenizer: Any,
        *,
        bos: int,
        name: str,
        source: Mapping[str, Any],
    ):
        self.name = name
        self.source = source
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = config.max_context_length
        self._config = config
        self._bos = bos
        self.layers = (
            Point("transformer.layers.0", "input"),
            *(Point(f"transformer.layers.{i}", "output") for i in range(len(config.query_heads) - 1)),
            Point("transformer.norm", "output"),
        )

    @classmethod
    def load(
        cls,
        *,
        checkpoint: str,
        name: str,
        dtype: str | None,
        device: str,
        tokenizer: str | None = None,
        revision: str | None = None,
    ) -> OpenELM:
        """Load a hub id or a local directory.

        Args:
            checkpoint: Hub id or directory.
            name: The name that results carry.
            dtype: A torch dtype by name; None for that of the weights.
            device: A torch device; with `auto` the model, of 3B at most, goes to the first GPU or the CPU.
            tokenizer: Hub id or directory of a Llama-2 tokenizer; None for the checkpoint's own.
            revision: Branch, tag or commit on the hub.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: No tokenizer is given and the checkpoint has none, a file is missing or cannot be read, or
                it holds other weights than OpenELM's.
        """
        content = configuration(checkpoint, revision)
        check_fetched(checkpoint, content, revision)
        try:
            config = OpenELMConfig.from_json(content, checkpoint)
            with torch.device("meta"):
                model = OpenELMModel(config)
        except ModelError:
            raise
        except Exception as error:  # what the sizes come to: no division, no tensor
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{checkpoint}: no model can be built from its config.json ({reason})") from error
        words = _tokenizer(checkpoint, revision, tokenizer, config.vocab_size)
        folder = _folder(checkpoint, revision)
        check_files(checkpoint, revision)
        tensors = _tensors(folder, checkpoint)
        _check_tensors(tensors, model, checkpoint)
        check_finite(tensors, checkpoint)
        number = getattr(torch, dtype) if dtype else tensors["transformer.token_embeddings.weight"].dtype
        place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        # Copied, since the file may go or change after loading.
        copies = {key: h.to(place, number, copy=True) for key, h in tensors.items()}
        model.load_state_dict(copies, assign=True)
        bos = next(iter(stated_ids(content, "bos")), 1)
        cautions = special_cautions(
            words.tokenizer, content, tokenizer or checkpoint, None if tokenizer else revision, fed={"bos": bos}
        )
        source: dict[str, Any] = {
            "adapter": "openelm",
            "checkpoint": checkpoint,
            "commit": commit_of(checkpoint, revision),
            "dtype": str(number).removeprefix("torch."),
            "configuration": configuration_fingerprint(content),
            "tokenizer": tokenizer or checkpoint,
            "ignored": [],
            **unread(checkpoint, revision),
            **stated(name, words, *cautions, *size_cautions(words.tokenizer, config.vocab_size)),
        }
        return cls(model.eval(), config, words.tokenizer, bos=bos, name=name, source=source)

    def token_ids(self, text: str) -> list[int]:
        """One `<s>` and the ids of a text, without `</s>`.

        Args:
            text: Any text.

        Returns:
            All ids; they may be more than `max_tokens`.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return [self._bos, *ids]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states.

        Args:
            ids: (b, n), integer, padded on the right.
            mask: (b, n), true at tokens; not needed, since no token sees what is to its right.

        Returns:
            (b, n, d), in the model's dtype and on its device. Rows of padding mean nothing.
        """
        h: Tensor = self.model.transformer(ids.to(self.model.transformer.norm.weight.device))
        return h

    def logits(self, h: Tensor) -> Tensor:
        """The LM head: final hidden states, (..., d) -> (..., vocabulary), in the model's dtype."""
        return self.model.logits(h)

    def untrained(self, seed: int) -> OpenELM:
        """The same configuration with weights drawn as OpenELM's own constructor does.

        They are drawn in float32 on the CPU and then rounded, so that a seed means the same model for every dtype
        and device.

        Args:
            seed: Of the weights.

        Returns:
            The twin, in eval mode. OpenELM has no dropout, so train mode changes nothing.
        """
        with torch.device("meta"):
            model = OpenELMModel(self._config)
        model = model.to_empty(device="cpu").float()
        with drawn_with(seed):
            model.draw()
        place_like(model, self.model)
        source = {
            "adapter": "openelm",
            "untrained": True,
            "seed": seed,
            "dtype": self.source["dtype"],
            "configuration": self.source["configuration"],
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
        }
        name = f"{self.name} untrained (seed {seed})"
        return OpenELM(model.eval(), self._config, self.tokenizer, bos=self._bos, name=name, source=source)


def _tokenizer(checkpoint: str, revision: str | None, given: str | None, vocab_size: int) -> Loaded:
    try:
        words = load_tokenizer(given or checkpoint, None if given else revision, around=False)
    except ModelError as error:
        if given:
            raise
        raise ModelError(
            f"{checkpoint}: OpenELM comes without a tokenizer; give that of Llama-2, a directory or a hub id, as "
            "`tokenizer` (an option, or a key of the YAML file)"
        ) from error
    if (size := words.tokenizer.vocab_size) > vocab_size:
        raise ModelError(
            f"{given or checkpoint}: a tokenizer of {size} tokens, but {checkpoint} has {vocab_size} "
            "embeddings; OpenELM was trained with the tokenizer of Llama-2"
        )
    return words


def _folder(checkpoint: str, revision: str | None) -> Path:
    """Where the files are, after they were fetched from the hub if need be."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        wanted = ["config.json", "*.safetensors", _INDEX]
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{checkpoint}: not to be had from the hub ({reason})") from error


def _tensors(folder: Path, checkpoint: str) -> dict[str, Tensor]:
    """All tensors of one file, or of those that an index names."""
    tensors: dict[str, Tensor] = {}
    try:
        names = [_WEIGHTS]
        if not (folder / _WEIGHTS).is_file() and (folder / _INDEX).is_file():
            names = sorted(set(json_of(folder / _INDEX)["weight_map"].values()))
        for name in names:
            tensors |= load_file(folder / name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{checkpoint}: its weights cannot be loaded ({str(error).strip()})") from error
    return tensors


def _check_tensors(tensors: Mapping[str, Tensor], model: OpenELMModel, checkpoint: str) -> None:
    """Every tensor of the model is there in its shape, and no other."""
    expected = model.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ModelError(f"{checkpoint}: {len(missing)} weights are not in the checkpoint (first: {missing[0]})")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ModelError(f"{checkpoint}: {len(unknown)} weights are not understood (first: {unknown[0]})")
    for key, h in tensors.items():
        if h.shape != expected[key].shape:
            raise ModelError(f"{checkpoint}: {key} is {tuple(h.shape)}, expected {tuple(expected[key].shape)}")
