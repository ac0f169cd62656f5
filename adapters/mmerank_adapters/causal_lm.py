"""Any causal language model of transformers, and encoders (BERT and its like)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from mmerank.convention import GenerationConvention
from mmerank.errors import ModelError
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.checkpoints import configuration
from mmerank.models.devices import placement
from mmerank.models.generation import continued
from mmerank.models.head import head_logits, same_logits
from mmerank.models.hooks import Point, capture
from mmerank.models.loading import tokenizer_fingerprint
from mmerank.models.plausible import check_built
from mmerank.models.soundness import check_files, check_loaded, check_tied, embedding_rows
from mmerank.models.source import source_of
from mmerank.models.special_tokens import size_cautions, special_cautions
from mmerank.models.tokenizer import load_tokenizer, stated
from mmerank.models.untrained import drawn_with, place_like
from mmerank.models.wrapped import evaluated
from mmerank.transfer import sent
from mmerank_adapters.architecture import (
    blocks_of,
    configuration_of,
    head_names,
    is_causal,
    max_tokens,
    without_pooler,
)


class LanguageModel:
    """A language model on transformers' AutoModelForCausalLM, or an encoder on AutoModel.

    Hook points are the input of the first block, the outputs of the other blocks, and the output of the body (what
    the LM head reads), which is after the final norm and, in OPT-350M, after `project_out`. That these are
    transformers' `hidden_states`, and that `logits` are the model's, is checked in one short forward when a
    checkpoint is loaded: a family that is built in another way is refused rather than measured somewhere else.

    The LM head stays in `model` and is only run by `logits`.
    """

    model_types = ()  # whatever no other adapter takes

    def __init__(self, model: Any, tokenizer: Any, *, predicts_next: bool, name: str, source: Mapping[str, Any]):
        self.name = name
        self.source = source
        self.model = model
        self.tokenizer = tokenizer
        self.predicts_next = predicts_next
        self._body = model.get_decoder() if predicts_next else model
        self._config = model.config.get_text_config(decoder=predicts_next or None)
        self.max_tokens = max_tokens(self._body, self._config, tokenizer)
        paths = {module: path for path, module in model.named_modules()}
        blocks = blocks_of(self._body, getattr(self._config, "num_hidden_layers", None))
        self.layers = (
            Point(paths[blocks[0]], "input"),
            *(Point(paths[block], "output") for block in blocks[:-1]),
            Point(paths[self._body], "output"),
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
        load_in: str | None = None,
    ) -> LanguageModel:
        """Load a hub id or a local directory.

        Args:
            checkpoint: Hub id or directory.
            name: The name that results carry.
            dtype: A torch dtype by name; None for the checkpoint's own.
            device: A torch device, or `auto` for `device_map="auto"`.
            tokenizer: Hub id or directory of the tokenizer; None for the checkpoint's own.
            revision: Branch, tag or commit on the hub.
            load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: A part of the checkpoint is missing or cannot be read, weights are missing or not used, or the
                model is of a kind that this adapter does not understand.
        """
        config = configuration_of(checkpoint, revision)
        causal = is_causal(config, checkpoint)
        place = placement(device, load_in)
        check_files(checkpoint, revision)
        auto = AutoModelForCausalLM if causal else AutoModel
        check_built(
            lambda: auto.from_config(copy.deepcopy(config), trust_remote_code=False),
            configuration(checkpoint, revision),
            checkpoint,
            revision,
        )
        try:
            model, report = auto.from_pretrained(
                checkpoint,
                config=config,
                revision=revision or "main",
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=False,
                **place,
            )
        except Exception as error:  # each of the libraries below has errors of its own
            raise ModelError(
                f"{checkpoint}: cannot be loaded ({str(error).strip() or type(error).__name__})"
            ) from error
        if causal:
            check_tied(model, checkpoint)
        else:
            model = without_pooler(model)
        unused = () if causal else head_names(config)
        ignored = check_loaded(model, report, checkpoint, revision, unused=unused, encoder=not causal)
        if not place:
            model.to(device)
        model.eval()
        words = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(checkpoint, revision)
        rows = embedding_rows(model)
        if tokenizer and (size := words.tokenizer.vocab_size) > (rows or 0):
            raise ModelError(f"{tokenizer}: a tokenizer of {size} tokens, but {checkpoint} has {rows} embeddings")
        cautions = special_cautions(
            words.tokenizer,
            configuration(checkpoint, revision),
            tokenizer or checkpoint,
            None if tokenizer else revision,
        )
        said = stated(name, words, *cautions, *size_cautions(words.tokenizer, rows))
        source = {
            **source_of(
                "causal-lm", model, checkpoint, ignored=ignored, said=said, revision=revision, load_in=load_in
            ),
            "tokenizer": tokenizer or checkpoint,
        }
        adapter = cls(model, words.tokenizer, predicts_next=causal, name=name, source=source)
        adapter._check(checkpoint)
        return adapter

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, *, name: str) -> LanguageModel:
        """An adapter around a model in memory, which is left as it is.

        Args:
            model: A causal language model of transformers, or an encoder without a head.
            tokenizer: Its tokenizer, as transformers loads it.
            name: The name that results carry.

        Returns:
            The adapter; its `model` is `model` itself, in the mode it was in.

        Raises:
            ModelError: The model is of a kind that this adapter does not understand, or the tokenizer is none.
        """
        if not hasattr(tokenizer, "init_kwargs"):
            inner = "; give `processor.tokenizer`" if hasattr(tokenizer, "tokenizer") else ""
            raise ModelError(
                f"{name}: expected the tokenizer of the model, as AutoTokenizer.from_pretrained(CHECKPOINT) "
                f"loads it, got {type(tokenizer).__name__}{inner}"
            )
        causal = _kind(model) in _class_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        if not causal and _kind(model) not in _class_names(MODEL_MAPPING_NAMES):
            raise ModelError(
                f"{name}: expected a causal language model or an encoder of transformers, got {_kind(model)}; with a "
                "head of another kind, give `model.base_model`"
            )
        source: dict[str, Any] = {
            "adapter": "causal-lm",
            "checkpoint": getattr(model.config, "_name_or_path", None) or None,
            "commit": None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "tokenizer": getattr(tokenizer, "name_or_path", None) or None,
            "ignored": [],
        }
        adapter = cls(model, tokenizer, predicts_next=causal, name=name, source=source)
        # For mixed precision accelerate gives the model a `forward` of its own that casts to a narrower dtype;
        # what is measured is the weights as they are saved, without it.
        cast = model.__dict__.pop("forward", None)
        try:
            with evaluated(model):
                adapter._check(name)
        finally:
            if cast is not None:
                model.forward = cast
        return adapter

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text, with the special tokens that the tokenizer adds, as in the published code.

        Args:
            text: Any text.

        Returns:
            All ids; they may be more than `max_tokens`.
        """
        ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return ids

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states, without LM head and cache.

        Args:
            ids: (b, n), integer, padded on the right.
            mask: (b, n), true at tokens.

        Returns:
            (b, n, d), in the model's dtype and on its device. Rows of padding mean nothing.
        """
        device = self._device()
        cache = {"use_cache": False} if self.predicts_next else {}
        body = self._body(input_ids=sent(ids, device), attention_mask=sent(mask.long(), device), **cache)
        h: Tensor = body.last_hidden_state
        return h

    def logits(self, h: Tensor) -> Tensor:
        """The LM head, with the scaling and capping that a family has behind it.

        Args:
            h: Final hidden states, (..., d).

        Returns:
            (..., vocabulary), in the model's dtype.

        Raises:
            ModelError: The model is an encoder.
        """
        if not self.predicts_next:
            raise ModelError(f"{self.name}: an encoder predicts no next token, so it has no logits and no loss")
        return head_logits(self.model, self._config, h)

    def generate(
        self, sequence: TokenSequence, image: None, how: GenerationConvention, logits: Callable[[Tensor], None]
    ) -> list[int]:
        """Let the model write behind a prompt.

        Args:
            sequence: What it reads.
            image: None; it reads no pictures.
            how: Most tokens, and how each is chosen.
            logits: Is given those of each step.

        Returns:
            Ids of the new tokens.

        Raises:
            ModelError: The model is an encoder.
        """
        if not self.predicts_next:
            raise ModelError(f"{self.name}: an encoder predicts no next token, so it writes nothing")
        ids = torch.tensor([sequence.ids], device=self._device())
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return continued(self.model, inputs, self.tokenizer, how, logits)

    def untrained(self, seed: int) -> LanguageModel:
        """The same configuration with the weights its own initialisation draws, as `from_config` does.

        They are drawn in float32 on the CPU and then rounded, so that a seed means the same model for every dtype
        and device. The published code builds its untrained models with `AutoModel.from_config` too; the numbers
        it draws are others, their distribution is the same.

        Args:
            seed: Of the weights.

        Returns:
            The twin, in eval mode.
        """
        config = copy.deepcopy(self.model.config)  # from_config writes the dtype into it
        auto = AutoModelForCausalLM if self.predicts_next else AutoModel
        with drawn_with(seed):
            model = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        if not self.predicts_next:
            model = without_pooler(model)
        model = place_like(model, self.model).eval()
        model.config.dtype = self.model.config.dtype
        source = {
            "adapter": "causal-lm",
            "untrained": True,
            "seed": seed,
            "dtype": str(model.dtype).removeprefix("torch."),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
        }
        name = f"{self.name} untrained (seed {seed})"
        return LanguageModel(model, self.tokenizer, predicts_next=self.predicts_next, name=name, source=source)

    def _device(self) -> torch.device:
        """Where ids go; accelerate moves them on where the embeddings are offloaded."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device

    @torch.no_grad()
    def _check(self, checkpoint: str) -> None:
        """Hold the hook points and `logits` against what the model itself returns, on four tokens."""
        ids = torch.arange(4)[None] % self.model.get_input_embeddings().weight.shape[0]
        mask = torch.ones_like(ids, dtype=torch.bool)
        points = {str(i): point for i, point in enumerate(self.layers)}
        inputs = {"input_ids": ids.to(self._device()), "attention_mask": mask.long().to(self._device())}
        try:
            with capture(self.model, points) as seen:
                output = self.model(**inputs, output_hidden_states=True)
        except Exception as error:  # a model that reads more than ids has its own way to say so
            raise ModelError(
                f"{checkpoint}: {_kind(self.model)} is built in a way not understood ({error})"
            ) from error
        expected = output.hidden_states or ()
        same = len(expected) == len(seen) and all(
            h.shape == seen[str(i)].shape and torch.allclose(seen[str(i)], h.to(seen[str(i)]), 0, 0, equal_nan=True)
            for i, h in enumerate(expected)
        )
        if not same:
            raise ModelError(
                f"{checkpoint}: its hidden states are not where they are expected, in {_kind(self.model)}"
            )
        if self.predicts_next:
            logits = self.logits(seen[str(len(seen) - 1)])
            if not same_logits(logits, output.logits):
                raise ModelError(f"{checkpoint}: {_kind(self.model)} does more to its logits than is understood")


def _kind(model: nn.Module) -> str:
    return type(model).__name__


def _class_names(mapping: Mapping[str, Any]) -> set[str]:
    """Names of the model classes in one of transformers' mappings, whose values are names or tuples of them."""
    return {name for names in mapping.values() for name in ([names] if isinstance(names, str) else names)}
