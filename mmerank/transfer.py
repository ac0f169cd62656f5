"""Tensors from a device to the CPU, without the wait."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """Tensors on their way to the CPU: a GPU copies them when it has computed them, and nothing waits until then.

    Args:
        tensors: Of one device. On any but CUDA's they are copied at once.
    """

    def __init__(self, *tensors: Tensor):
        device = tensors[0].device
        if device.type != "cuda":
            self._tensors, self._there = [tensor.cpu() for tensor in tensors], None
            return
        # Pinned memory, which torch allocates for such a copy, is what lets the GPU write while the CPU goes on.
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._there.record(torch.cuda.current_stream(device))

    def wait(self) -> list[Tensor]:
        """The tensors, when they are there; in any thread."""
        if self._there is not None:
            self._there.synchronize()
        return self._tensors
