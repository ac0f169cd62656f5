"""What mmerank is compared with: the published recipe, and passes as they come when nothing is shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmerank import capture
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.sequences import padded, spliced_embeddings

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


@torch.no_grad()
def published_passes(
    bodies: Sequence[Any], tokenizer: Any, texts: Sequence[str], *, all_layers: bool = False
) -> None:
    """What the published code does: `AutoModel`, so neither LM head nor loss; one text at a time, an SVD of each.

    As there, the cache of keys and values is made, and the entropy is read before the next text. There the untrained
    model stays in train mode; here its dropout is off, as mmerank's is.

    Args:
        bodies: Models as `AutoModel` gives them, trained and untrained.
        tokenizer: Theirs.
        texts: Any.
        all_layers: Keep the hidden states of all layers and take an SVD of each, which the published code does not.
    """
    for body in bodies:
        device = next(body.parameters()).device
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"].to(device)
            output = body(input_ids=ids, output_hidden_states=all_layers)
            for h in output.hidden_states if all_layers else [output.last_hidden_state]:
                recipe_entropy(h[0]).item()


@torch.no_grad()
def script_passes(models: Sequence[Any], tokenizer: Any, texts: Sequence[str], *, all_layers: bool = False) -> None:
    """What a plain script does that wants losses too: the language model with labels, all hidden states kept.

    Args:
        models: As `AutoModelForCausalLM` gives them, trained and untrained.
        tokenizer: Theirs.
        texts: Any.
        all_layers: Take an SVD of every layer, not of the last alone.
    """
    for model in models:
        device = next(model.parameters()).device
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"].to(device)
            output = model(input_ids=ids, labels=ids, output_hidden_states=True)
            output.loss.item()
            for h in output.hidden_states if all_layers else output.hidden_states[-1:]:
                recipe_entropy(h[0]).item()


@torch.inference_mode()
def pair_passes(
    adapter: Adapter,
    llm: Any,
    readings: Sequence[dict[Any, TokenSequence]],
    pixels: Sequence[Tensor],
    measure: Measure = recipe_entropy,
) -> None:
    """The recipe carried over to images: a pass of the whole model for each of image, text and pair.

    As in the published code of text, no logits are computed and no list of hidden states is kept; eRank1 and
    eRank2 are read in the pass of the image.

    Args:
        adapter: The model.
        llm: Its LLM.
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
                    images = [of.connector for of in adapter.encode_images([picture])]
                if kind == "image":
                    for h in seen.values():
                        measure(h[0])
            embeddings = spliced_embeddings(llm.get_input_embeddings(), padded([sequence])[0], images)
            measure(llm(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0])
