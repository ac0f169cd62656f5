"""The loss of a text, or of a response, from the hidden states of its pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmerank.errors import ModelError
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.transfer import sent

# Positions whose logits are held at once: the vocabulary is what makes them large.
LOGIT_POSITIONS = 256
READS_BEHIND = "its LLM reads what stands behind a token, so it predicts no answers"
# Final hidden states, (..., d) -> (..., vocabulary).
Logits = Callable[[Tensor], Tensor]


def logits_of(adapter: Adapter) -> Logits:
    """The LM head of a multimodal model.

    Args:
        adapter: The model.

    Returns:
        Final hidden states, (..., d) -> (..., vocabulary).

    Raises:
        ModelError: The adapter has no LM head, or its LLM reads what stands behind a token.
    """
    found: Logits | None = getattr(adapter, "logits", None)
    if found is None:
        raise ModelError(f"{adapter.name}: its adapter has no `logits`, so the likelihood of an answer is not known")
    if not adapter.causal:
        raise ModelError(f"{adapter.name}: {READS_BEHIND}")
    return found


def mean_loss(logits: Logits, h: Tensor, ids: Tensor) -> Tensor:
    """Mean negative log-likelihood of each token given those before it, nats, from logits in chunks.

    Args:
        logits: Of the model, which predicts the next token.
        h: Final hidden states, (n, d).
        ids: Of the tokens, (n,), on the CPU; the first is not predicted.

    Returns:
        0-dim float64, on the device of `h`.
    """
    total = torch.zeros((), dtype=torch.float64, device=h.device)
    targets = sent(ids[1:], h.device)
    for start in range(0, len(targets), LOGIT_POSITIONS):
        chunk = slice(start, min(start + LOGIT_POSITIONS, len(targets)))
        found = logits(h[None, chunk])[0].float()
        wanted = targets[chunk].to(found.device)
        total += torch.nn.functional.cross_entropy(found, wanted, reduction="sum").to(total)
    return total / len(targets)


def answer_places(whole: TokenSequence, without: TokenSequence) -> list[int]:
    """Positions of an answer: text behind what the sequence has in common with that without an answer.

    Args:
        whole: With the answer.
        without: The same with an empty one.

    Returns:
        Ascending; none where the answer is not told from what stands before it.
    """
    pairs = zip(whole.ids, without.ids, strict=False)
    common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(whole), len(without)))
    return [i for i in range(common, len(whole)) if whole.roles[i] is Role.TEXT]


class Prediction(NamedTuple):
    """How several passes predict the same tokens, each of shape (s,) for s passes; nats.

    `divergence` and `agreement` hold each pass against the first.
    """

    loss: Any
    divergence: Any
    agreement: Any


def predictions(logits: Logits, h: Tensor, ids: Tensor) -> Prediction:
    """How several passes predict the same tokens, from logits in chunks.

    Args:
        logits: Of the model, which predicts the next token.
        h: Final hidden states at the positions that each token is predicted from, (s, t, d).
        ids: Of the tokens, (t,), on the CPU.

    Returns:
        Mean negative log-likelihood of the tokens; mean Kullback-Leibler divergence of the first pass's distributions
        from each pass's, D(first || pass); share of the tokens for which both have the same likeliest one. float64,
        on the device of `h`.
    """
    totals = torch.zeros((3, len(h)), dtype=torch.float64, device=h.device)
    targets = sent(ids, h.device)
    for start in range(0, len(ids), LOGIT_POSITIONS):
        chunk = slice(start, start + LOGIT_POSITIONS)
        first: Tensor | None = None
        for i, of_pass in enumerate(h):
            logs = logits(of_pass[None, chunk])[0].float().log_softmax(dim=-1)
            first = logs if first is None else first
            wanted = targets[chunk].to(logs.device)
            totals[0, i] -= logs.gather(-1, wanted[:, None]).sum().to(totals)
            totals[1, i] += (first.exp() * (first - logs)).sum().to(totals)
            totals[2, i] += (first.argmax(dim=-1) == logs.argmax(dim=-1)).sum().to(totals)
    return Prediction(*(totals / len(ids)))
