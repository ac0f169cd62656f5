"""A model out of what training wraps around it: LoRA, compilation, copies on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmerank.errors import ModelError

# Adapters of peft that need more than the layers they put into the model: a second pass, or to be told the task.
_NOT_IN_LAYERS = ("XLORA", "POLY")


def unwrapped(model: Any) -> Any:
    """The model that transformers knows, inside of what is around it; its parameters are the same.

    Taken off are `torch.compile`, DataParallel, DistributedDataParallel, DeepSpeed's engine and peft. LoRA and the
    like of it stay active, since they are in the model's layers.

    Args:
        model: Any.

    Returns:
        It, or a module in it.

    Raises:
        ModelError: It would be another model by itself (prompts are learned in front of it), or its parameters lie
            in shards.
    """
    while True:
        kind = type(model).__name__
        if isinstance(model, nn.Module) and (
            kind == "FullyShardedDataParallel" or any(isinstance(p, DTensor) for p in model.parameters())
        ):
            raise ModelError(
                f"the parameters of the {kind} lie in shards, where no module can run by itself; measure a saved "
                "checkpoint"
            )
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            _check_peft(model)
            model = model.get_base_model()
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (DataParallel, DistributedDataParallel)) or kind == "DeepSpeedEngine":
            model = model.module
        else:
            return model


def _check_peft(model: Any) -> None:
    for name, config in model.peft_config.items():
        kind = getattr(config.peft_type, "value", config.peft_type)
        if config.is_prompt_learning or kind in _NOT_IN_LAYERS:
            raise ModelError(
                f"the adapter {name!r} of peft is {kind}, which is not in the layers of the model: without it "
                "another model would be measured; LoRA and others that change layers can be measured"
            )


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Measure the model as it is saved and as it is written, and give each module the mode back that it had.

    In eval mode, without dropout; without the casts of an autocast region around; and uncompiled, since hooks that
    came later do not fire in compiled code. Not by `model.train(mode)`: in training, a part that is frozen in eval
    mode stays so.

    Args:
        model: Any.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    is_compiled = any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
    if any(training for _, training in modes):
        model.eval()
    try:
        with ExitStack() as stack:
            for kind in sorted({parameter.device.type for parameter in model.parameters()} - {"meta"}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if is_compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        for module, training in modes:
            module.training = training
