"""What a language model of transformers is: its kind, its blocks, its longest sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from mmerank.errors import ModelError
from mmerank.models.checkpoints import configuration
from mmerank.models.plausible import check_fetched

_NO_LIMIT = 2**31 - 1


def configuration_of(checkpoint: str, revision: str | None = None) -> Any:
    """The configuration, as transformers reads it, without its choice of how the model is run.

    Args:
        checkpoint: Hub id or directory.
        revision: On the hub; None for the newest.

    Returns:
        A configuration class of transformers.

    Raises:
        ModelError: transformers does not know the model, a value cannot be meant, or not beside these weights, or
            it is an encoder-decoder.
    """
    check_fetched(checkpoint, configuration(checkpoint, revision), revision)
    try:
        config = AutoConfig.from_pretrained(checkpoint, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{checkpoint}: not a model of transformers, whose own code is never run ({reason})"
        ) from error
    except Exception as error:  # transformers checks some values, and stumbles over others
        reason = str(error).strip().split("\n")[-1].strip()
        raise ModelError(f"{checkpoint}: its config.json cannot be loaded ({reason})") from error
    if config.is_encoder_decoder:
        raise ModelError(
            f"{checkpoint}: model_type {config.model_type!r} is an encoder-decoder; expected one of the two"
        )
    return run_as_usual(config)


def run_as_usual(config: Any) -> Any:
    """The configuration without what a file may say of how attention and experts are computed.

    It may name a kernel, which would be fetched from the hub and run. Without it transformers takes `sdpa`, or
    `eager` for a family that does not have it.

    Args:
        config: Of transformers; changed.

    Returns:
        The same.
    """
    config._output_attentions = False  # would choose `eager`
    config._attn_implementation = None  # of the parts of a model too
    config._experts_implementation = None
    config.return_dict = True
    return config


def is_causal(config: Any, checkpoint: str) -> bool:
    """Whether the model predicts the next token, or else is an encoder.

    BERT and others exist as both; then the class that the checkpoint was saved from decides.

    Args:
        config: The model's.
        checkpoint: Where it came from, for the message.

    Returns:
        True for a causal language model, False for an encoder.

    Raises:
        ModelError: It is neither.
    """
    kind = config.model_type
    causal, masked = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind), kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if causal and (not masked or config.is_decoder or causal in (config.architectures or ())):
        return True
    if masked or kind in MODEL_MAPPING_NAMES:
        return False
    raise ModelError(f"{checkpoint}: model_type {kind!r} is neither a causal language model nor an encoder")


def without_pooler(model: Any) -> Any:
    """The encoder without its sentence vector, which is not measured and often has no weights."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def head_names(config: Any) -> set[str]:
    """Names of the weights with which an encoder of this kind predicts tokens, and which are not measured.

    Args:
        config: The encoder's.

    Returns:
        All names in the models that it was pre-trained as, the body's among them.
    """
    names: set[str] = set()
    for auto in (AutoModelForMaskedLM, AutoModelForPreTraining):
        if type(config) in auto._model_mapping:
            with torch.device("meta"):
                names |= set(auto.from_config(config, trust_remote_code=False).state_dict())
    return names


def blocks_of(body: nn.Module, count: int | None) -> nn.ModuleList:
    """The list of the model's blocks.

    Args:
        body: The model without its head.
        count: How many blocks its configuration names.

    Returns:
        The first list of that length.

    Raises:
        ModelError: There is none; the blocks share their weights, for example.
    """
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(body).__name__}: no list of {count} blocks in it, so its layers cannot be told apart")


def max_tokens(body: nn.Module, config: Any, tokenizer: Any) -> int:
    """The longest sequence that has positions; where there is no limit, what the tokenizer says.

    Args:
        body: The model without its head.
        config: Its configuration.
        tokenizer: Its tokenizer.

    Returns:
        Tokens, special ones included.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0:
        return int(min(tokenizer.model_max_length, _NO_LIMIT))
    for path, module in body.named_modules():
        # RoBERTa counts positions from behind the padding's.
        if (
            path.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ):
            return int(limit) - module.padding_idx - 1
    return int(limit)
