"""What a model writes, by the `generate` of transformers, and what is seen of it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import GenerationConvention
from mmerank.errors import DataError, ModelError, first_line


def continued(
    model: Any,
    inputs: Mapping[str, Tensor],
    tokenizer: Any,
    how: GenerationConvention,
    logits: Callable[[Tensor], None],
) -> list[int]:
    """The tokens that a model writes behind what it is given, the end-of-sequence token among them.

    Temperature and the share of the probability that is drawn from are those of `how`; what else a checkpoint states
    for its own generation, as a penalty of repetition, is left out, so that models are asked alike.

    Args:
        model: Of transformers, with `generate`; its cache is used.
        inputs: Of one prompt: `input_ids`, or `inputs_embeds`, and whatever else it takes.
        tokenizer: Names the token that ends a text, where the checkpoint's generation settings do not.
        how: Most tokens, and how each is chosen.
        logits: Is given those of each step, (1, vocabulary), before anything is done to them.

    Returns:
        Token ids, at least one.

    Raises:
        DataError: The model fails on the prompt.
        OutOfMemoryError: Prompt and response do not fit.
        ModelError: It has no `generate`, or is an encoder and a decoder.
    """
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    steps = 0

    class Seen(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            logits(scores)
            return scores

    if not callable(getattr(model, "generate", None)):
        raise ModelError(f"{type(model).__name__} has no `generate`, so it writes nothing")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} writes in a decoder of its own; generation is measured of models that write "
            "behind their prompt"
        )
    ends = _ends(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        num_beams=1,
        do_sample=how.sampling == "sampled",
        temperature=float(how.temperature),
        top_p=float(how.top_p),
        **({"top_k": 0} if how.sampling == "sampled" else {}),
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,  # of one prompt nothing is padded
        use_cache=True,
    )
    try:
        found = model.generate(**inputs, generation_config=settings, logits_processor=LogitsProcessorList([Seen()]))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own, whatever it comes to
        raise DataError(f"the model fails to continue it ({first_line(error)})") from error
    # Some give the prompt back in front of them, and some do not.
    ids: list[int] = found[0, -steps:].tolist()
    return ids


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a text, by the checkpoint's generation settings and the tokenizer."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = stated if isinstance(stated, (list, tuple)) else [stated]
    return [int(i) for i in dict.fromkeys([*listed, getattr(tokenizer, "eos_token_id", None)]) if i is not None]
