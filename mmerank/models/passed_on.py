"""Blocks that pass their rows on unchanged, so that what is left of an encoder keeps each row to its own place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def states_in(carried: Any) -> list[Tensor]:
    """All hidden states, (..., n, d), among what a module was given or returned, in order."""
    if isinstance(carried, Tensor):
        return [carried] if carried.is_floating_point() and carried.ndim >= 2 else []
    if isinstance(carried, dict):
        carried = [*carried.values()]
    if isinstance(carried, (list, tuple)):
        return [h for value in carried for h in states_in(value)]
    return []


@contextmanager
def passed_on(model: nn.Module, run: Callable[[], Any], *, besides: nn.Module | None = None) -> Iterator[None]:
    """Let the blocks of a model's encoders put out what they read while the block of code runs.

    A block of a transformer adds to its rows what it makes of all of them; a row stays where it is. What carries rows
    elsewhere (patch embedding, windows, merges, tiles, dropped rows) stands around the blocks and works on. So what a
    patch of the picture changes then are its own rows alone, to the bit, and this costs next to nothing.

    Blocks are the members of lists, of `nn.Sequential` if they are of one class, which put out as many rows as they
    read, of the same width.

    Args:
        model: Any.
        run: One pass, in which it is seen what blocks read and put out.
        besides: A list of blocks, as the LLM's, that is left as it is with all in it.

    Yields:
        Nothing.
    """
    blocks = [block for of in lists_of_blocks(model, besides=besides) for block in of]
    returned: dict[nn.Module, Any] = {}  # what a block puts out; None where it is not its rows

    def ran(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        read, put_out = states_in([*args, *kwargs.values()])[:1], states_in(output)[:1]
        same = bool(read and put_out) and read[0].shape == put_out[0].shape
        plain = isinstance(output, Tensor) or (
            isinstance(output, tuple) and output[0] is put_out[0] if same else False
        )
        returned[block] = output if same and plain and returned.get(block, output) is not None else None

    with ExitStack() as hooks:
        for block in dict.fromkeys(blocks):
            hooks.callback(block.register_forward_hook(ran, with_kwargs=True).remove)
        run()
    with ExitStack() as changed:
        for block, output in returned.items():
            if output is not None:
                changed.callback(_restore, block, block.__dict__.get("forward"))
                block.forward = _passing(() if isinstance(output, Tensor) else output[1:], isinstance(output, tuple))
        yield


def lists_of_blocks(model: nn.Module, *, besides: nn.Module | None = None) -> list[list[nn.Module]]:
    """The members of lists of modules, and of `nn.Sequential` if they are of one class.

    Args:
        model: Any.
        besides: A list, as the LLM's, that is left out with all in it.

    Returns:
        Of each list its members.
    """
    untouched = set() if besides is None else set(besides.modules())
    return [
        list(of.children())
        for of in model.modules()
        if of not in untouched and (isinstance(of, nn.ModuleList) or _alike(of))
    ]


def _alike(of: nn.Module) -> bool:
    return isinstance(of, nn.Sequential) and len(of) > 1 and len({type(block) for block in of}) == 1


def _passing(others: tuple[Any, ...], in_tuple: bool) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        h = states_in([*args, *kwargs.values()])[0]
        return (h, *others) if in_tuple else h

    return forward


def _restore(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward
