"""Forward passes that are looked at: where they end, and what modules are given and put out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Stopped(Exception):
    """Ends a forward pass where nothing more of it is needed."""


@contextmanager
def until(module: nn.Module, *, entered: bool = False, check: Callable[[Any], None] | None = None) -> Iterator[None]:
    """Let a forward pass end where `module` has run, or is entered: what is behind it is not computed.

    Args:
        module: Of the model that runs inside the block.
        entered: Whether it ends before the module.
        check: Is given the module's arguments, or what it returns.

    Yields:
        Nothing.
    """

    def stop(carried: Any) -> None:
        if check is not None:
            check(carried)
        raise Stopped

    if entered:
        handle = module.register_forward_pre_hook(
            lambda of, args, kwargs: stop(bound(of, args, kwargs)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda of, args, output: stop(output))
    try:
        yield
    except Stopped:
        pass
    finally:
        handle.remove()


def bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a module's forward by name."""
    try:
        arguments = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    except TypeError:  # accelerate's forward takes anything
        arguments = {str(i): value for i, value in enumerate(args)} | dict(kwargs)
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            found |= value
        elif isinstance(value, tuple) and name in ("args", "input"):
            found |= {f"{name}{i}": of for i, of in enumerate(value)}
        else:
            found[name] = value
    return found


def tensors_of(carried: Any) -> list[Tensor]:
    """All hidden states, (..., n, d), among what a module returned, in order; each once."""
    found: list[Tensor] = []
    if isinstance(carried, Tensor):
        return [carried] if carried.is_floating_point() and carried.ndim >= 2 else []
    if isinstance(carried, Mapping):
        carried = list(carried.values())
    if isinstance(carried, (list, tuple)):
        for value in carried:
            found += [new for new in tensors_of(value) if all(new is not old for old in found)]
    return found
