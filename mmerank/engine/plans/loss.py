"""The loss of a text, from the hidden states of its pass."""

from __future__ import annotations

import torch
from torch import Tensor

from mmerank.models.loading import TextAdapter
from mmerank.transfer import sent

# Positions whose logits are held at once: the vocabulary is what makes them large.
LOGIT_POSITIONS = 256


def mean_loss(adapter: TextAdapter, h: Tensor, ids: Tensor) -> Tensor:
    """Mean negative log-likelihood of each token given those before it, nats, from logits in chunks.

    Args:
        adapter: The model, which predicts the next token.
        h: Final hidden states, (n, d).
        ids: Of the tokens, (n,), on the CPU.

    Returns:
        0-dim float64, on the device of `h`.
    """
    total = torch.zeros((), dtype=torch.float64, device=h.device)
    targets = sent(ids[1:], h.device)
    for start in range(0, len(targets), LOGIT_POSITIONS):
        chunk = slice(start, min(start + LOGIT_POSITIONS, len(targets)))
        logits = adapter.logits(h[None, chunk])[0].float()
        wanted = targets[chunk].to(logits.device)
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").to(total)
    return total / len(targets)
