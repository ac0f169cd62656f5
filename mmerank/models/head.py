"""The LM head of a model of transformers, with what a family has behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def head_logits(model: Any, config: Any, h: Tensor) -> Tensor:
    """What the LM head makes of final hidden states, scaled and capped as the configuration says.

    Args:
        model: Of transformers, with an LM head.
        config: Of its language model.
        h: Final hidden states, (..., d).

    Returns:
        (..., vocabulary), in the model's dtype.
    """
    logits: Tensor = model.get_output_embeddings()(h)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


def same_logits(ours: Tensor, own: Tensor) -> bool:
    """Whether these are the same product of the same numbers, but for rounding.

    Args:
        ours: From `head_logits`.
        own: What the model itself returned.

    Returns:
        Whether they are; a capped logit may differ by less than 1e-3 of it.
    """
    rounding = 4 * torch.finfo(ours.dtype).eps * float(ours.abs().max())
    return ours.shape == own.shape and torch.allclose(ours, own.to(ours), rtol=0, atol=rounding, equal_nan=True)
