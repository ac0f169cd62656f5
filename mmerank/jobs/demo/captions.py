"""How well an embedded model describes the pictures of its world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmerank.inputs.demo.scenes import Scene, described
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.sequences import padded, spliced_embeddings, tokenized

SLOTS = ("position", "size", "colour", "shape")


@dataclass(frozen=True)
class CaptionScores:
    """What greedy decoding gets right.

    Attributes:
        n: Number of pictures.
        accuracy: By slot, the share of the objects in the pictures for which it is named right. An object whose
            cell is not named has none of them right.
        invented: Objects named in cells that are empty, per picture.
        loss: Mean negative log-likelihood of the descriptions, nats per token, each with its picture.
        loss_mismatched: The same, each with the picture of the next scene.
    """

    n: int
    accuracy: dict[str, float]
    invented: float
    loss: float
    loss_mismatched: float


def causal_lm(adapter: Adapter) -> Any:
    """The LLM of an embedded model with its LM head, which MiniGPT-v2's adapter does not load.

    Args:
        adapter: A loaded LLaVA or MiniGPT-v2.

    Returns:
        A LlamaForCausalLM around the adapter's own modules.
    """
    from transformers import LlamaForCausalLM

    model: Any = adapter.model
    if adapter.source["adapter"] == "llava":
        llama, head = model.model.language_model, model.lm_head
    else:
        folder = Path(adapter.source["llama_model"]["path"])
        llama, head = (
            model.llama_model,
            LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").lm_head,
        )
    with torch.device("meta"):
        whole = LlamaForCausalLM(llama.config)
    whole.model, whole.lm_head = llama, head
    return whole.eval()


@torch.inference_mode()
def caption_scores(adapter: Adapter, scenes: Sequence[Scene], *, lm: Any = None, batch: int = 32) -> CaptionScores:
    """Accuracy of greedy captions and loss of the true ones, in the model's conversation template.

    Args:
        adapter: A loaded model.
        scenes: At least two.
        lm: Its LLM with LM head; default: `causal_lm(adapter)`.
        batch: Pictures at a time.

    Returns:
        The scores.
    """
    lm = lm if lm is not None else causal_lm(adapter)
    right = dict.fromkeys(SLOTS, 0)
    things = invented = 0
    losses: list[float] = []
    mismatched: list[float] = []
    images = torch.cat(
        [
            adapter.encode_images(torch.stack([adapter.pixels(s.picture(), "model") for s in scenes[i : i + batch]]))
            for i in range(0, len(scenes), batch)
        ]
    )
    for start in range(0, len(scenes), batch):
        some, rows = scenes[start : start + batch], images[start : start + batch]
        others = torch.stack([images[(start + i + 1) % len(scenes)] for i in range(len(some))])
        losses += _losses(adapter, lm, some, rows)
        mismatched += _losses(adapter, lm, some, others)
        for scene, caption in zip(some, _captions(adapter, lm, some, rows), strict=True):
            named = described(caption)
            things += len(scene.things)
            invented += len(set(named) - {t.cell for t in scene.things})
            for t in scene.things:
                if found := named.get(t.cell):
                    right["position"] += 1
                    for slot in SLOTS[1:]:
                        right[slot] += getattr(found, slot) == getattr(t, slot)
    return CaptionScores(
        n=len(scenes),
        accuracy={slot: count / things for slot, count in right.items()},
        invented=invented / len(scenes),
        loss=sum(losses) / len(losses),
        loss_mismatched=sum(mismatched) / len(mismatched),
    )


def response_tokens(adapter: Adapter, scene: Scene) -> int:
    """Tokens of the description, with the end of the sequence behind it."""
    return len(tokenized(adapter.tokenizer, (scene.description, Role.TEXT))) + 1


def _sequence(adapter: Adapter, scene: Scene) -> TokenSequence:
    return adapter.sequence(scene.text_example(), "pair", "template")


def _losses(adapter: Adapter, lm: Any, some: Sequence[Scene], images: Tensor) -> list[float]:
    """Of each description, nats per token."""
    ids, mask = padded([_sequence(adapter, scene) for scene in some])
    logits = lm(inputs_embeds=spliced_embeddings(lm.get_input_embeddings(), ids, images)).logits[:, :-1].float()
    nats = F.cross_entropy(logits.mT, ids[:, 1:].clamp(min=0), reduction="none")
    ends = mask.sum(dim=1).tolist()
    counts = [response_tokens(adapter, scene) for scene in some]
    return [float(row[end - 1 - count : end - 1].mean()) for row, end, count in zip(nats, ends, counts, strict=True)]


def _captions(adapter: Adapter, lm: Any, some: Sequence[Scene], images: Tensor) -> list[str]:
    """Greedy captions."""
    prompts = []
    for scene in some:
        sequence = _sequence(adapter, scene)
        count = len(sequence) - response_tokens(adapter, scene)
        prompts.append(TokenSequence(sequence.ids[:count], sequence.roles[:count]))
    captions = [""] * len(some)
    for length in sorted({len(prompt) for prompt in prompts}):  # equal lengths together, so that nothing is padded
        members = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids, mask = padded([prompts[i] for i in members])
        tokens = lm.generate(
            inputs_embeds=spliced_embeddings(lm.get_input_embeddings(), ids, images[members]),
            attention_mask=mask.long(),
            max_new_tokens=128,
            do_sample=False,
            pad_token_id=adapter.tokenizer.eos_token_id,
            eos_token_id=adapter.tokenizer.eos_token_id,
        )
        for i, row in zip(members, tokens, strict=True):
            captions[i] = adapter.tokenizer.decode(row, skip_special_tokens=True)
    return captions
