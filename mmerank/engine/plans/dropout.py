"""Dropout around a pass, as the published code leaves it on in the untrained model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def dropout(model: nn.Module, seed: int, text_id: str) -> Iterator[None]:
    """Dropout on, with random numbers that follow from a seed and one text, whatever was measured before it.

    Args:
        model: In eval mode.
        seed: Of the run.
        text_id: Of the one text in the batch.

    Yields:
        Nothing.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(text_seed(seed, text_id))
        model.train()
        try:
            yield
        finally:
            model.eval()


def text_seed(seed: int, text_id: str) -> int:
    """The seed of the random numbers for one text: 63 bits of a hash of seed and id."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text_id}".encode()).digest()[:8], "big") >> 1
