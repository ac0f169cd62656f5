"""Items -> batches of similar length, up to a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")

# Items looked at together: enough to find some of equal length, few enough to show progress.
WINDOW = 512
ACCELERATOR_BUDGET = 8192


def default_budget(device: torch.device) -> int:
    """Tokens per batch where none are asked for: on a CPU batching does not pay, so one item a batch."""
    return 0 if device.type == "cpu" else ACCELERATOR_BUDGET


def windows(items: Iterable[Item], size: int = WINDOW) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time."""
    remaining = iter(items)
    while window := list(islice(remaining, size)):
        yield window


def batches(items: Sequence[Item], length: Callable[[Item], int], budget: int) -> Iterator[list[Item]]:
    """Items of similar length together.

    Args:
        items: Any number.
        length: Tokens of an item.
        budget: Most tokens in a batch, padding included; an item that is longer comes alone.

    Yields:
        Batches, in the order of the items' length.
    """
    batch: list[Item] = []
    for item in sorted(items, key=length):
        if batch and length(item) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
