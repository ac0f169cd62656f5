"""What mmerank is compared with: the published recipe, and passes as they come when nothing is shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmerank import capture
from mmerank.adapter import Adapter
from mmerank.sequences import TokenSequence, padded, spliced_embeddings
from mmerank.text_adapter import TextAdapter

Measure = Callable[[Tensor], object]


def recipe_entropy(h: Tensor) -> Tensor:
    """Entropy of (n, d) hidden states as the published code takes it: float32, the (d, d) covariance, an SVD."""
    z = h.float()
    z = z - z.mean(dim=0)
    u = z / z.norm(dim=1, keepdim=True)
    covariance = u.T @ u / len(u)
    singular = torch.linalg.svd(covariance / covariance.trace())[1]
    entropy: Tensor = -(singular * singular.log()).nansum()
    return entropy


@torch.inference_mode()
def text_passes(adapters: Sequence[TextAdapter], texts: Sequence[Tensor], layers: Sequence[int]) -> None:
    """Per text and model: one forward with all hidden states and logits of every position, the loss, and SVDs."""
    for adapter in adapters:
        for ids in texts:
            output = adapter.model(input_ids=ids, output_hidden_states=True, use_cache=False, labels=ids)
            for layer in layers:
                recipe_entropy(output.hidden_states[layer][0])


@torch.inference_mode()
def pair_passes(
    adapter: Adapter,
    llm: Any,
    head: nn.Module,
    readings: Sequence[dict[Any, TokenSequence]],
    pixels: Sequence[Tensor],
    measure: Measure = recipe_entropy,
) -> None:
    """The recipe carried over to images: a pass of the whole model for each of image, text and pair.

    Each keeps all hidden states and computes logits; eRank1 and eRank2 are read in the pass of the image.

    Args:
        adapter: The model.
        llm: Its LLM.
        head: Its LM head.
        readings: What the LLM reads, by kind of input, for each example.
        pixels: (3, h, w) for each example.
        measure: What is done to each of the five sets of hidden states.
    """
    before = {"vision": adapter.points["vision"], "connector": adapter.points["connector"]}
    for sequences, picture in zip(readings, pixels, strict=True):
        for kind, sequence in sequences.items():
            images = None
            if kind != "text":
                with capture(adapter.model, before) as seen:
                    images = adapter.encode_images(picture[None])
                if kind == "image":
                    for h in seen.values():
                        measure(h[0])
            embeddings = spliced_embeddings(llm.get_input_embeddings(), padded([sequence])[0], images)
            output = llm(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
            head(output.hidden_states[-1])
            measure(output.hidden_states[-1][0])
