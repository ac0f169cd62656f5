"""Find out which modules put out what a block of an LLM adds: by running it, with no name of a module in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmerank.eranks import ATTENTION, MLP
from mmerank.errors import ModelError
from mmerank.models.updates import TOLERANCE, Added, Addend, entering, first_states

Floats = NDArray[np.float64]
# A factor that is so near to 1 is 1.
_NEAR = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.02}
# Rows that the search looks at, and the most modules whose outputs a block may add.
_ROWS, _MOST_ADDED = 256, 3
# Without any one of them the sum must be off by so many times as much, over all rows; with one more it must be so
# many times as near, or they are all. Below a share of what rounding may leave, they are all for sure.
_NEEDED, _SURELY, _NOTHING = 1.2, 0.25, 1e-12
# Of what leaves a block the input must be at least so much, or it is made of the input, not added to it.
_IN_IT = 0.01
# Another row changes by at least this share of the change of the row that was changed, or the part looks at no other.
_SEES = 0.02


def added_by(model: nn.Module, blocks: Mapping[int, str], run: Callable[[], Any], name: str) -> list[Added]:
    """Find out what each block adds, in one pass and some further ones of each block alone.

    All outputs of a block's modules are candidates. Those two (or three) are taken which, each times a number, make
    up with the block's input what leaves it, so that norms behind attention and MLP, multipliers and layer scales are
    in them. Of each it is then tried whether a changed row changes other rows of it, which attention does and an MLP
    does not, and whether it changes when another is changed, which tells parallel blocks from sequential ones.

    Args:
        model: In eval mode.
        blocks: Paths of blocks, by number.
        run: One pass of one example, in which each block runs once.
        name: The model's, for messages.

    Returns:
        What each adds, in the order of the numbers.

    Raises:
        ModelError: One adds nothing of the kind; says why.
    """
    found: dict[int, Added | str] = {}

    def look(number: int, path: str) -> Callable[..., None]:
        def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if number not in found:
                try:
                    found[number] = _Looked(block, path, args, kwargs).added(number)
                except _Unknown as error:
                    found[number] = str(error)

        return before

    with ExitStack() as hooks:
        for number, path in blocks.items():
            block = model.get_submodule(path)
            hooks.callback(block.register_forward_pre_hook(look(number, path), with_kwargs=True).remove)
        run()
    bad = {number: of for number, of in found.items() if isinstance(of, str)}
    bad |= {number: "it did not run" for number in blocks if number not in found}
    if bad:
        good = [number for number in blocks if number not in bad]
        rest = f"; blocks {_listed(good)} can be measured" if good else ""
        number = min(bad)
        also = f" (so do blocks {_listed([of for of in sorted(bad) if of != number])})" if len(bad) > 1 else ""
        raise ModelError(f"{name}: block {number} cannot be taken apart{also}: {bad[number]}{rest}")
    return [of for number in blocks if isinstance(of := found[number], Added)]


def _listed(numbers: Sequence[int]) -> str:
    """Numbers as a choice of them, those in a row from first to last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(of[0]) if len(of) == 1 else f"{of[0]} to {of[-1]}" for of in runs)


class _Unknown(Exception):
    """Why a block cannot be taken apart."""


class _Looked:
    """One block, and what it was given in the pass in which it is looked at."""

    def __init__(self, block: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self._block = block
        self._path = path
        h = entering(args, kwargs)
        if h is None:
            raise _Unknown("it is given no hidden states")
        self._x = h
        self._kept = self._x.detach().clone()
        # What was written into a cache once would be there twice.
        self._args = tuple(None if _caches(value) else value for value in args)
        self._kwargs = {name: None if _caches(value) else value for name, value in kwargs.items()}

    def added(self, number: int) -> Added:
        """What it adds."""
        outputs, out = self._run()
        if out.shape != self._x.shape:
            raise _Unknown(f"states of shape {tuple(self._x.shape)} enter it and {tuple(out.shape)} leave it")
        if out.shape[-2] < 2:
            raise _Unknown("the first example has a single position")
        chosen, factors, kept, deviation = self._search(outputs, out)
        sees = {path for path in chosen if self._sees_others(path, {of: outputs[of] for of in chosen})}
        if not sees:
            raise _Unknown("in nothing that it adds do its positions see each other, as in cross-attention")
        if len(sees) == len(chosen):
            raise _Unknown("its positions see each other in all that it adds, so none of it is an MLP")
        near = _NEAR.get(out.dtype, _NEAR[torch.float32])
        addends = [
            Addend(f"{self._path}.{path}", 1.0 if abs(factor - 1) < near else factor)
            for path, factor in zip(chosen, factors, strict=True)
        ]
        parts = {
            part: tuple(of for of, path in zip(addends, chosen, strict=True) if (path in sees) is seeing)
            for part, seeing in ((ATTENTION, True), (MLP, False))
        }
        groups = {part: [path for path in chosen if (path in sees) is (part == ATTENTION)] for part in parts}
        after = ""
        for part, other in ((MLP, ATTENTION), (ATTENTION, MLP)):
            reads = [self._reads(path, groups[other], outputs) for path in groups[part]]
            if any(reads) and not all(reads):
                raise _Unknown(f"a part of its {part} is added to another stream than the rest")
            if any(reads):
                after = part
        return Added(number, self._path, parts, after, 1.0 if abs(kept - 1) < near else kept, deviation)

    def _run(
        self, x: Tensor | None = None, held: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One pass of the block.

        Args:
            x: What enters it; what did, if nothing is given.
            held: What modules put out in place of what they make, by path in the block.

        Returns:
            The outputs of all its modules that run once, in the order in which they end, and what leaves the block.

        Raises:
            _Unknown: No hidden states leave it.
        """
        x = self._kept.clone() if x is None else x
        seen: dict[str, Tensor] = {}
        twice: set[str] = set()

        def ran(path: str) -> Callable[..., Any]:
            def after(module: nn.Module, args: Any, output: Any) -> Any:
                h = first_states(output)
                if h is None or h.numel() != x.numel() or h.shape[-1] != x.shape[-1]:
                    return None
                if path in seen:
                    twice.add(path)
                seen[path] = h.detach().clone()
                if held is None or path not in held:
                    return None
                return _instead(output, h, held[path].reshape(h.shape).clone())

            return after

        def put(value: Any) -> Any:
            return x if value is self._x else value

        with ExitStack() as hooks:
            for path, module in self._block.named_modules():
                if path:
                    hooks.callback(module.register_forward_hook(ran(path)).remove)
            args = [put(value) for value in self._args]
            # Not by a call of the module: whatever hooks others have set on it are not for this.
            output = self._block.forward(*args, **{name: put(value) for name, value in self._kwargs.items()})
        out = first_states(output)
        if out is None:
            raise _Unknown("no hidden states leave it")
        return {path: h for path, h in seen.items() if path not in twice}, out.detach()

    def _search(self, outputs: Mapping[str, Tensor], out: Tensor) -> tuple[list[str], list[float], float, float]:
        """The outputs that make up what leaves the block, their factors, that of the input, and how far it is off."""
        x, target = self._rows(self._kept), self._rows(out)
        lengths = np.maximum(*(np.linalg.norm(h, axis=1, keepdims=True) for h in (x, target)))
        if not np.isfinite(lengths).all() or not lengths.all():
            raise _Unknown("what leaves it is not finite, or zero, in the first example")
        named: dict[str, Floats] = {}
        for path, h in sorted(outputs.items(), key=lambda of: of[0].count(".")):  # a module before what is in it
            rows = self._rows(h.reshape(self._x.shape)) / lengths
            known = [target / lengths, *named.values()]  # what leaves the block is no update of it
            if np.isfinite(rows).all() and not any(np.array_equal(rows, of) for of in known):
                named[path] = rows
        order = [path for path in outputs if path in named]
        columns = np.stack([(x / lengths).ravel(), *(named[path].ravel() for path in order)])
        goal = (target / lengths).ravel()
        inner, right = columns @ columns.T, columns @ goal
        tolerance = TOLERANCE.get(out.dtype, TOLERANCE[torch.float32])
        best: _Sum | None = None
        for count in range(2, _MOST_ADDED + 1):
            found = _nearest(count, inner, right, goal)
            if found is not None:
                more = _Sum.of(*found, columns, goal, len(x))
                best = more if best is None or more.left * _NEEDED < best.left else best
            if best is not None and best.off <= tolerance * _SURELY:
                break
        if best is None:
            raise _Unknown("no two of its modules put out states of the width of the stream")
        if not best.off <= tolerance:
            raise _Unknown(
                f"its input and outputs of up to {_MOST_ADDED} of its modules do not add up to what leaves it (the "
                f"nearest are off by {best.off:.1e}, rounding leaves {tolerance:.0e}), as with a norm behind the sum"
            )
        for one in best.chosen:
            rest = tuple(of for of in best.chosen if of != one)
            fewer = _fitted(inner[np.ix_((0, *rest), (0, *rest))], right[[0, *rest]])
            if (
                fewer is not None
                and _Sum.of(rest, fewer, columns, goal, len(x)).left < best.left * _NEEDED + _NOTHING
            ):
                what = "a single update" if len(best.chosen) == 2 else "fewer updates"
                raise _Unknown(f"it adds {what}, as far as can be told in {str(out.dtype).removeprefix('torch.')}")
        kept = float(best.factors[0])
        return [order[i - 1] for i in best.chosen], [float(of / kept) for of in best.factors[1:]], kept, best.off

    def _rows(self, h: Tensor) -> Floats:
        """Some of the rows, evenly, in float64."""
        rows = h.reshape(-1, h.shape[-1])
        step = max(1, math.ceil(len(rows) / _ROWS))
        found: Floats = rows[::step].cpu().double().numpy()
        return found

    def _sees_others(self, path: str, outputs: Mapping[str, Tensor]) -> bool:
        """Whether a changed first row changes other rows of an output, all others that are added being held."""
        x = self._kept.clone()
        x[..., 0, :] *= _signs(x)
        held = {of: h for of, h in outputs.items() if of != path}
        found, _ = self._run(x, held)
        change = (found[path] - outputs[path]).reshape(self._x.shape).double().norm(dim=-1)
        own, others = change[..., 0].amax(), change[..., 1:].amax()
        return bool(others > _SEES * own)

    def _reads(self, path: str, others: Sequence[str], outputs: Mapping[str, Tensor]) -> bool:
        """Whether an output changes when other ones do."""
        found, _ = self._run(held={of: outputs[of] * _signs(outputs[of]) for of in others})
        change = (found[path] - outputs[path]).double().norm()
        return bool(change > _SEES * outputs[path].double().norm())


def _signs(h: Tensor) -> Tensor:
    """1 and -1 in no order, the same always, (d,): a gate that is even in its input sees no change of all signs."""
    drawn = torch.randint(2, (h.shape[-1],), generator=torch.Generator().manual_seed(0))
    return (2 * drawn - 1).to(h.device, h.dtype)


def _fitted(inner: Floats, right: Floats) -> Floats | None:
    """Least squares; None where the terms depend on each other."""
    scale = np.sqrt(np.diag(inner))
    if not scale.all():
        return None
    unit = inner / np.outer(scale, scale)
    if np.linalg.cond(unit) > 1e10:
        return None
    found: Floats = np.linalg.solve(unit, right / scale) / scale
    return found


@dataclass(frozen=True)
class _Sum:
    """Some outputs, times factors, and how far they are, with the input, from what leaves the block.

    Attributes:
        chosen: Which columns they are.
        factors: Of the input and of these.
        off: In the row that is furthest, as a share of the longest of its terms.
        left: Root mean square over rows.
    """

    chosen: tuple[int, ...]
    factors: Floats
    off: float
    left: float

    @classmethod
    def of(cls, chosen: tuple[int, ...], factors: Floats, columns: Floats, goal: Floats, rows: int) -> _Sum:
        """Looked at row by row."""
        terms = factors[:, None] * columns[[0, *chosen]]
        left, *each = (np.linalg.norm(h.reshape(rows, -1), axis=1) for h in (goal - terms.sum(axis=0), *terms, goal))
        shares = left / np.max(each, axis=0)
        return cls(chosen, factors, float(shares.max()), float(np.sqrt(np.square(shares).mean())))


def _nearest(count: int, inner: Floats, right: Floats, goal: Floats) -> tuple[tuple[int, ...], Floats] | None:
    """The so many columns that come nearest with the input, and all factors; None where none depends on the input."""
    best: tuple[float, tuple[int, ...], Floats] | None = None
    for chosen in combinations(range(1, len(inner)), count):
        here = [0, *chosen]
        factors = _fitted(inner[np.ix_(here, here)], right[here])
        if factors is None or abs(factors[0]) < _IN_IT:
            continue
        squared = float(goal @ goal - factors @ right[here])
        if best is None or squared < best[0]:
            best = squared, chosen, factors
    return None if best is None else best[1:]


def _caches(value: Any) -> bool:
    """Whether it keeps keys and values for later passes."""
    return callable(getattr(value, "update", None)) and not isinstance(value, (dict, Tensor))


def _instead(output: Any, h: Tensor, other: Tensor) -> Any:
    """The same output with other states in it."""
    if output is h:
        return other
    if isinstance(output, (tuple, list)):
        return type(output)(other if value is h else value for value in output)
    raise _Unknown(f"a module in it puts out a {type(output).__name__}")
