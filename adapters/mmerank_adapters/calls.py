"""Calls of a model's modules in a forward pass, with prints of the rows that each reads and puts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmerank_adapters.anatomy import LISTS
from mmerank_adapters.passes import bound, tensors_of
from mmerank_adapters.prints import prints, rows_of, share_in


@dataclass
class Call:
    """One call of a module, in the order in which calls end; `began` and `ended` count entries and exits."""

    path: str
    module: nn.Module
    began: int
    ended: int = -1
    inputs: dict[str, tuple[tuple[int, ...], Tensor]] = field(default_factory=dict)
    outputs: list[tuple[tuple[int, ...], Tensor]] = field(default_factory=list)
    channels: dict[str, Tensor] = field(default_factory=dict)  # prints of inputs whose second axis is the width
    chunks: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # of inputs, cut to a width


@contextmanager
def calls_of(paths: Mapping[nn.Module, str], llm: nn.Module, encoder: Sequence[nn.Module]) -> Iterator[list[Call]]:
    """Keep prints of what modules outside the LLM's blocks read and put out.

    What is in a block of the vision encoder is left out: of a large encoder that is most of all rows. Of a block,
    and of what it is a list of, what it puts out is enough. So is what is read before the blocks, where each
    pixel is a row.

    Args:
        paths: All modules of the model with their paths.
        llm: The LLM's blocks.
        encoder: Blocks of the vision encoder.

    Yields:
        The calls, which are put in when they end.
    """
    calls: list[Call] = []
    clock = iter(range(1 << 62))
    widths: set[int] = set()
    encoded = False
    open_calls: dict[nn.Module, list[Call]] = {}
    encoding = {part for block in encoder for part in block.modules()}
    listed = {block for part in encoding if isinstance(part, LISTS) for block in part} | set(encoder)
    inside = set(llm.modules()) | (encoding - listed)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(paths[module], module, next(clock))
        nonlocal encoded
        encoded = encoded or module in encoding
        read = bound(module, args, kwargs) if encoded and module not in encoding else {}
        for name, value in read.items():
            for h in tensors_of(value)[:1] if isinstance(value, Tensor) else []:
                call.inputs[name] = tuple(h.shape), prints(rows_of(h))
                if h.ndim == 4:
                    call.channels[name] = prints(rows_of(h, channels_first=True))
                for width in widths:
                    if h.shape[-1] > width and h.shape[-1] % width == 0:
                        call.chunks[name, width] = prints(rows_of(h, width=width))
        open_calls.setdefault(module, []).append(call)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = open_calls[module].pop()
        call.ended = next(clock)
        for h in tensors_of(output):
            widths.add(h.shape[-1])
            call.outputs.append((tuple(h.shape), prints(rows_of(h))))
            if h.ndim == 4:
                call.outputs.append(((h.shape[0], h.shape[1]), prints(rows_of(h, channels_first=True))))
        calls.append(call)

    with ExitStack() as hooks:
        for module in paths:
            if module not in inside and not isinstance(module, nn.ModuleList):
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        yield calls


def is_norm(module: nn.Module) -> bool:
    """Whether a module scales rows and does nothing else, by the name of its class."""
    return "norm" in type(module).__name__.lower()


def last_norm(
    connector: nn.Module, calls: Sequence[Call], rows: Tensor, dtype: torch.dtype, least: float
) -> nn.Module:
    """The norm that ends a connector, which keeps the direction of its rows and changes their length.

    Args:
        connector: What puts out rows of these directions.
        calls: In the order in which they end, without those of the LLM's modules.
        rows: Prints of the picture's rows that enter the LLM.
        dtype: Of the LLM.
        least: Share of the rows that must be found.

    Returns:
        The last norm that reads these rows and puts them out; without one, the connector itself.
    """
    for call in calls:
        read = [given for _, given in call.inputs.values()]
        put_out = [out for _, out in call.outputs]
        if call.module is not connector and is_norm(call.module) and read and put_out:
            if all(share_in(rows, torch.cat(of), dtype) >= least for of in ([read[0]], put_out)):
                connector = call.module
    return connector
