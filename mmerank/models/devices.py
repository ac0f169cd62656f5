"""Where a model goes, and whether its weights are quantised on the way."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

from mmerank.errors import UsageError
from mmerank.models.located import check_device, check_load_in
from mmerank.processes import by_slurm, rank


def chosen_device(device: str | None) -> str:
    """The device that is meant: `device` itself, or `cuda` where there is one, else `cpu`.

    Of several processes that were started together, each has a GPU of its own.

    Args:
        device: As torch names it, `auto`, or None.

    Returns:
        The device's name.

    Raises:
        UsageError: Unknown device, or one that is not there.
    """
    import torch

    check_device(device)
    place = device or (_own_gpu() if torch.cuda.is_available() else "cpu")
    if place == "auto":
        return place
    try:
        kind = torch.device(place).type
    except RuntimeError:
        raise UsageError(f"unknown device {place!r}; cpu, cuda, cuda:0, mps, or auto") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {place!r}: torch sees no CUDA device here")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {place!r}: torch sees no Apple GPU here")
    if kind == "meta":
        raise UsageError("device 'meta' holds no values to measure")
    return place


def quantised(family: Any, load_in: str | None, device: str) -> dict[str, str]:
    """The keyword with which an adapter quantises the weights while it loads them; none where that is not asked for.

    Args:
        family: The adapter's class.
        load_in: `8bit`, `4bit`, or None.
        device: Where the model goes.

    Returns:
        For the class's `load`.

    Raises:
        UsageError: Unknown name, an adapter that cannot, no bitsandbytes, or no CUDA device.
    """
    if load_in is None:
        return {}
    check_load_in(load_in)
    if "load_in" not in inspect.signature(family.load).parameters:
        raise UsageError(f"{family.__name__} loads weights as they are; --load-in is for LLaVA and language models")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"loading in {load_in} needs bitsandbytes, which is not installed; pip install bitsandbytes")
    import torch

    if not torch.cuda.is_available() or not device.startswith(("cuda", "auto")):
        raise UsageError(f"loading in {load_in} needs a CUDA device, not {device}")
    return {"load_in": load_in}


def placement(device: str, load_in: str | None) -> dict[str, Any]:
    """What transformers' `from_pretrained` is told of where weights go and whether they are quantised.

    Args:
        device: A torch device, or `auto`.
        load_in: `8bit`, `4bit`, or None.

    Returns:
        Keywords.
    """
    if load_in is None:
        return {"device_map": "auto"} if device == "auto" else {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=load_in == "8bit", load_in_4bit=load_in == "4bit")
    return {"quantization_config": config, "device_map": device if device == "auto" else {"": device}}


def _own_gpu() -> str:
    import torch

    process = rank()
    if process.count == 1:
        return "cuda"
    if by_slurm() and torch.cuda.device_count() == 1:  # each task sees the one that it is bound to
        return "cuda:0"
    if process.local >= torch.cuda.device_count():
        raise UsageError(
            f"process {process.local} of this machine finds {torch.cuda.device_count()} GPUs; start as many "
            "processes as there are GPUs, or say --device"
        )
    return f"cuda:{process.local}"
