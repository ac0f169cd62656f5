"""Items -> batches of similar length, up to a token budget."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import torch

Item = TypeVar("Item")

# Items looked at together: enough to find some of equal length, few enough to show progress.
WINDOW = 512
ACCELERATOR_BUDGET = 8192
# Of the memory that is free beside the model, what batches may take; the rest is for longer ones than those before.
MEMORY_SHARE = 0.8


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


class Memory(Protocol):
    """What an allocator tells of a device."""

    def look(self) -> tuple[int, int]:
        """Most bytes that were held beside the model since the last look, and how many could be."""
        ...


class CudaMemory:
    """What torch's allocator tells of a GPU with a model on it; nothing waits for the GPU.

    Args:
        device: Of CUDA; what is on it now is the model.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._model = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> tuple[int, int]:
        """See `Memory`."""
        most = torch.cuda.max_memory_allocated(self._device) - self._model
        free, _ = torch.cuda.mem_get_info(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return most, free + torch.cuda.memory_reserved(self._device) - self._model


@dataclass
class Budget:
    """Most tokens in a batch, padding included; less after a batch that did not fit in memory.

    With `memory` it is found: what a token takes is known from the batches that ran. It becomes `ACCELERATOR_BUDGET`,
    or that halved some times, so that a little more or less memory in a second run makes no other batches.
    """

    tokens: int
    memory: Memory | None = None
    _most: int = ACCELERATOR_BUDGET
    _of_a_token: float = 0.0

    def ran(self, tokens: int) -> bool:
        """Learn from a batch that fitted.

        Args:
            tokens: Of the batch, padding included.

        Returns:
            Whether the budget is another one now: at most twice what it was.
        """
        if self.memory is None or not tokens:
            return False
        held, room = self.memory.look()
        self._of_a_token = max(self._of_a_token, held / tokens)
        found = ACCELERATOR_BUDGET
        while found > 1 and found * self._of_a_token > MEMORY_SHARE * room:
            found //= 2
        before, self.tokens = self.tokens, min(found, self._most, 2 * self.tokens)
        return self.tokens != before

    def halve(self, too_much: int) -> None:
        """Go on with half of what did not fit.

        Args:
            too_much: Tokens of the batch that did not fit, padding included.
        """
        self.tokens = self._most = too_much // 2
        warnings.warn(
            f"out of memory with {too_much} tokens in a batch; going on with at most {self.tokens} "
            f"(--batch-tokens {self.tokens} begins there)",
            stacklevel=2,
        )


def budget_for(device: torch.device, asked: int | None, layers: int = 1) -> Budget:
    """What was asked for; otherwise the default, and on CUDA what is found to fit.

    Args:
        device: Where the model is, loaded.
        asked: Tokens.
        layers: See `default_budget`.

    Returns:
        A budget to begin with.
    """
    if asked is not None:
        return Budget(asked)
    return Budget(default_budget(device, layers), CudaMemory(device) if device.type == "cuda" else None)


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
