"""Whether the weights of a model fit where it is to go, before it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmerank.errors import in_short
from mmerank.models.sizes import Weights, weights_of

GB = 1e9
_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Memory:
    """Of a device: its bytes, and what it is called."""

    size: int
    device: str


def memory_of(device: str | None) -> Memory | None:
    """The memory of the device that a model goes to.

    Args:
        device: As `--device`; None for `cuda` where there is one, else `cpu`.

    Returns:
        All of it, used or not; None where it is not one device, or not known.

    Raises:
        UsageError: There is no such device.
    """
    import torch

    from mmerank.models.devices import chosen_device

    place = chosen_device(device)
    if place.startswith("cuda"):
        found = torch.cuda.get_device_properties(torch.device(place))
        return Memory(int(found.total_memory), f"{place} ({found.name})")
    if place != "cpu" or not hasattr(os, "sysconf"):
        return None
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = _OF_CONTAINER.read_text().strip() if _OF_CONTAINER.is_file() else ""
    return Memory(min(size, int(allowed)) if allowed.isdecimal() else size, "cpu")


def does_not_fit(weights: Weights | None, options: Mapping[str, Any], memory: Memory | None) -> str:
    """Why a model cannot be loaded there.

    Args:
        weights: Of the model; None where they are not known.
        options: `dtype` and `load-in`, as on the command line.
        memory: Of the device.

    Returns:
        Nothing where the weights alone fit, or that is not known.
    """
    if weights is None or memory is None:
        return ""
    needed = weights.in_memory(options.get("dtype"), options.get("load-in"))
    if needed <= memory.size:
        return ""
    how = options.get("load-in") or options.get("dtype") or "as stored"
    return (
        f"does not fit: {needed / GB:.3g} GB of weights ({in_short(weights.parameters)} parameters, {how}), and "
        f"{memory.device} has {memory.size / GB:.3g} GB; a smaller dtype, load-in, or device: auto over several GPUs"
    )


def too_large(model: str, options: Mapping[str, Any]) -> str:
    """As `does_not_fit`, of a MODEL argument and the device of this process."""
    weights = weights_of(model)
    return "" if weights is None else does_not_fit(weights, options, memory_of(options.get("device")))
