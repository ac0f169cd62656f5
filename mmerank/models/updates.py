"""What the blocks of an LLM add to the residual stream, and what passes there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerank.eranks import ATTENTION, MLP
from mmerank.errors import UsageError
from mmerank.models.hooks import Point
from mmerank.models.layers import block_numbers
from mmerank.models.passed_on import states_in

# The most that input and updates together may be off what leaves the block in any row, as a share of the longest of
# them: what rounding leaves of two sums in that precision. Some models add in float32 whatever they are loaded in.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 0.02}


@dataclass(frozen=True)
class Addend:
    """A module whose output a block adds to the residual stream.

    Attributes:
        module: Its path in the model.
        factor: What its output is multiplied by, in units of the stream that enters the block.
    """

    module: str
    factor: float


@dataclass(frozen=True)
class Added:
    """What one block adds: `kept * (input + attention + MLP)` leaves it.

    Attributes:
        number: Of the block, from 1 on.
        block: Its path in the model.
        parts: `attention` and `mlp`: the modules that make each up, in the order in which they run.
        after: Which of the parts is added to the stream with the other already in it: `mlp` where attention comes
            first, `attention` where it comes second, empty where both are added to the block's input.
        kept: What the whole is multiplied by; 1 in nearly all models.
        deviation: How far the sum is from what leaves the block, in the row that is furthest, as a share of the
            longest of input, updates and output; as a share of the output alone, what rounding leaves would not be
            small where a block takes away again what made a row long.
    """

    number: int
    block: str
    parts: Mapping[str, tuple[Addend, ...]]
    after: str
    kept: float
    deviation: float


@dataclass(frozen=True)
class Block:
    """What passed through one block in one pass.

    Attributes:
        updates: `attention` and `mlp`: what is added, (b, n, d), float32 or wider.
        streams: By the same names: what each is added to.
        deviations: Of each row how far the sum is from what left the block, as in `Added`, (b, n).
        tolerance: The most that this may be.
    """

    updates: Mapping[str, Tensor]
    streams: Mapping[str, Tensor]
    deviations: Tensor
    tolerance: float


def block_paths(model: nn.Module, layers: Sequence[Point], chosen: str, name: str) -> dict[int, str]:
    """The blocks that a choice names.

    Args:
        model: Any.
        layers: Hook points of its LLM, as an adapter has them; the first one is the input of the first block.
        chosen: Names joined by commas: `all`, `first`, `middle` (half of the blocks), `last`, or numbers from 1 on.
        name: The model's, for messages.

    Returns:
        Paths by number, ascending; none for an empty choice.

    Raises:
        UsageError: A name or number is unknown, or the model has no list of blocks.
    """
    end = len(layers) - 1
    try:
        numbers = block_numbers(end, chosen)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if not numbers:
        return {}
    first = str(layers[0].module)
    front, _, _ = first.rpartition(".")
    blocks = model.get_submodule(front) if front else None
    paths = [f"{front}.{of}" for of, _ in blocks.named_children()] if isinstance(blocks, nn.ModuleList) else []
    if layers[0].side != "input" or first not in paths or len(paths) != end:
        raise UsageError(f"{name}: its {end} blocks are no list of modules, so what they add cannot be looked for")
    return {number: paths[number - 1] for number in numbers}


@contextmanager
def reading(model: nn.Module, added: Sequence[Added], read: Callable[[Added, Block], None]) -> Iterator[None]:
    """Give what passes in blocks to a function, each time one has run.

    Args:
        model: That in which `added_by` found them.
        added: Of the blocks.
        read: Is called behind each.

    Yields:
        Nothing.
    """
    with ExitStack() as hooks:
        for of in added:
            seen: dict[str, Tensor] = {}

            def enters(block: nn.Module, args: Any, kwargs: Any, seen: dict[str, Tensor] = seen) -> None:
                h = entering(args, kwargs)
                assert h is not None
                seen[""] = h.detach().clone()

            def leaves(block: nn.Module, args: Any, output: Any, of: Added = of, seen: Any = seen) -> None:
                out = first_states(output)
                assert out is not None  # the search found it
                read(of, _block(of, seen, out.detach()))
                seen.clear()

            block = model.get_submodule(of.block)
            hooks.callback(block.register_forward_pre_hook(enters, with_kwargs=True).remove)
            for addend in (addend for part in of.parts.values() for addend in part):

                def puts_out(
                    module: nn.Module, args: Any, output: Any, path: str = addend.module, seen: Any = seen
                ) -> None:
                    h = first_states(output)
                    assert h is not None
                    seen[path] = h.detach().clone()  # some blocks add to it in place

                hooks.callback(model.get_submodule(addend.module).register_forward_hook(puts_out).remove)
            hooks.callback(block.register_forward_hook(leaves).remove)
        yield


def _block(of: Added, seen: Mapping[str, Tensor], out: Tensor) -> Block:
    tolerance = TOLERANCE.get(out.dtype, TOLERANCE[torch.float32])
    x, out = _widened(seen[""]), _widened(out)
    updates = {}
    for part, addends in of.parts.items():
        terms = [_widened(seen[addend.module]).reshape(x.shape).to(x.device) for addend in addends]
        scaled = [h if addend.factor == 1 else h * addend.factor for h, addend in zip(terms, addends, strict=True)]
        updates[part] = sum(scaled[1:], scaled[0])
    streams = dict.fromkeys(updates, x)
    if of.after:
        (first,) = {*updates} - {of.after}
        streams[of.after] = x + updates[first]
    total = x + updates[ATTENTION] + updates[MLP]
    out = out.to(x.device)
    longest = torch.stack([h.norm(dim=-1) for h in (x, *updates.values(), out / of.kept)]).amax(dim=0)
    return Block(updates, streams, (total - out / of.kept).norm(dim=-1) / longest, tolerance)


def _widened(h: Tensor) -> Tensor:
    return h if h.dtype in (torch.float32, torch.float64) else h.float()


def first_states(carried: Any) -> Tensor | None:
    """The first hidden states among what a module was given or returned."""
    return next(iter(states_in(carried)), None)


def entering(args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The residual stream among what a block is given: the first states, by place or by name."""
    return first_states([*args, kwargs.get("hidden_states"), *kwargs.values()])
