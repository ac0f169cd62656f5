"""What every adapter shares to build an untrained twin: where its random numbers come from, and where it goes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def drawn_with(seed: int) -> Iterator[None]:
    """Make what is drawn on the CPU inside the block depend on `seed`, and leave torch's generators as they were.

    Args:
        seed: Any whole number.

    Yields:
        Nothing.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reset the generators of all GPUs too.
        torch.default_generator.manual_seed(seed)
        yield


def place_like(twin: nn.Module, model: nn.Module) -> nn.Module:
    """Move a model to the dtypes and devices of another with the same parameters.

    Dtypes go by parameter, since transformers keeps rotary frequencies (buffers) in float32 whatever the dtype. Of
    quantised parameters only the model's own dtype is taken over.

    Args:
        twin: What is moved, on the CPU.
        model: What it is moved next to.

    Returns:
        `twin`.
    """
    others = dict(model.named_parameters())
    usual = next(iter(others.values()))  # for what the other calls by another name, as adapters in it do
    for name, parameter in twin.named_parameters():
        other = others.get(name, usual)
        parameter.data = parameter.data.to(other.dtype if other.is_floating_point() else usual.dtype)
    if spread := getattr(model, "hf_device_map", None):
        from accelerate import dispatch_model

        return dispatch_model(twin, spread)  # type: ignore[no-any-return]
    return twin.to(next(model.parameters()).device)


def twin_of(model: Any, seed: int, *, complete: Callable[[Any], None] | None = None) -> Any:
    """A model of the same configuration, with the weights that transformers' own initialisation draws.

    Args:
        model: Of transformers.
        seed: Of the weights, which are drawn in float32 on the CPU.
        complete: Draws what that initialisation leaves out, in place.

    Returns:
        The twin, where the model is, in its dtypes and in eval mode.
    """
    config = copy.deepcopy(model.config)
    with drawn_with(seed):
        twin = type(model)._from_config(config, dtype=torch.float32)
        if complete is not None:
            complete(twin)
    twin = place_like(twin, model).eval()
    twin.config.dtype = model.config.dtype
    return twin
