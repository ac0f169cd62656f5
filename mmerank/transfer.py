"""Tensors between the CPU and a device, without the wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; where that is CUDA's, nothing waits for the copy.

    Args:
        tensor: On the CPU.
        device: Where it shall be. On any but CUDA's a copy that is not waited for may read memory that is used anew.

    Returns:
        The tensor there.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def for_each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or tensors by name, changed one by one.

    Args:
        value: What an adapter's `pixels` gives.
        change: What is done to each.

    Returns:
        The same form.
    """
    if isinstance(value, Mapping):
        return {name: for_each_tensor(of, change) for name, of in value.items()}
    return change(value) if isinstance(value, Tensor) else value


class Arriving:
    """Tensors on their way to the CPU: a GPU copies them when it has computed them, and nothing waits until then.

    Args:
        tensors: Of one device. On any but CUDA's they are copied at once.
    """

    def __init__(self, *tensors: Tensor):
        device = tensors[0].device
        self._there: torch.cuda.Event | None = None
        if device.type != "cuda":
            self._tensors = [tensor.cpu() for tensor in tensors]
            return
        # On a stream of its own, since what follows on the model's would wait for the copy.
        stream = _copying(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            # Into pinned memory, which torch allocates for such a copy, and without which the CPU would wait.
            self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
            self._there = stream.record_event(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]
        for tensor in tensors:
            tensor.record_stream(stream)  # so that its memory is not used anew before it is copied

    def wait(self) -> list[Tensor]:
        """The tensors, when they are there; in any thread."""
        if self._there is not None:
            self._there.synchronize()
        return self._tensors


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
