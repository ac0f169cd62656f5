"""The LM head of a multimodal model that is known by inspection alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmerank.errors import ModelError, first_line
from mmerank.models.head import head_logits, same_logits
from mmerank.models.hooks import Point, capture
from mmerank_adapters.examination import TEXT
from mmerank_adapters.feeding import Feeder, noise
from mmerank_adapters.reading import Reader, forward


@torch.inference_mode()
def lm_head(reader: Reader, feeder: Feeder, name: str) -> Callable[[Tensor], Tensor]:
    """What makes logits of the states at the LLM's final norm, held against the model's own on a picture and a text.

    Args:
        reader: Around the model.
        feeder: Around its processor.
        name: The model's, for messages.

    Returns:
        Final hidden states, (..., d), -> (..., vocabulary).

    Raises:
        ModelError: It has none, or does more to its logits than is understood.
    """
    model = reader.model
    config = getattr(reader.llm, "config", None) or model.config.get_text_config()
    try:
        with capture(model, {"llm": Point(reader.found.final)}, calls=None) as seen:
            own = getattr(forward(model, *feeder.taken_apart(TEXT, noise(0))), "logits", None)
        (h,) = seen["llm"]
        # Some put the head of a family on without its scales.
        for way in (config, None):
            if isinstance(own, Tensor) and same_logits(head_logits(model, way, h), own):
                return partial(head_logits, model, way)
    except Exception as error:  # an encoder that reads more in its decoder has its own way to say so
        raise ModelError(f"{name}: no LM head was found behind {reader.found.final} ({first_line(error)})") from error
    raise ModelError(
        f"{name}: its logits are not what its LM head makes of the states behind {reader.found.final}, so the "
        "likelihood of an answer is not known"
    )
