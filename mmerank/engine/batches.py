"""Items -> batches of similar length, up to a token budget."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")

# Items looked at together: enough to find some of equal length, few enough to show progress.
WINDOW = 512
ACCELERATOR_BUDGET = 8192


def default_budget(device: torch.device, layers: int = 1) -> int:
    """Tokens per batch where none are asked for.

    Args:
        device: Where the model is. On a CPU batching does not pay, so one item a batch.
        layers: How many are measured. The states of each are held until they are, which may be two batches later,
            so of many layers there are fewer tokens in a batch.

    Returns:
        Most tokens in a batch.
    """
    return 0 if device.type == "cpu" else ACCELERATOR_BUDGET // (1 + layers // 8)


@dataclass
class Budget:
    """Most tokens in a batch, padding included; less after a batch that did not fit in memory."""

    tokens: int

    def halve(self, too_much: int) -> None:
        """Go on with half of what did not fit.

        Args:
            too_much: Tokens of the batch that did not fit, padding included.
        """
        self.tokens = too_much // 2
        warnings.warn(
            f"out of memory with {too_much} tokens in a batch; going on with at most {self.tokens} "
            f"(--batch-tokens {self.tokens} begins there)",
            stacklevel=2,
        )


# What CUDA and its libraries say where the memory that is lacking is not that of torch's allocator.
_OF_LIBRARIES = (
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "MPS backend out of memory",
    "_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _OF_LIBRARIES)


def free_memory() -> None:
    """Give back what the allocators of the devices keep for later."""
    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()


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
