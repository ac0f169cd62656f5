"""Context manager that records what named modules of any PyTorch model receive or return."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from mmerank.errors import CaptureError

Side = Literal["input", "output"]


class Point(NamedTuple):
    """Where hidden states are read: a module, by its path or the object itself, and a side of it.

    `skip` leading tokens (a CLS token, say) are left out: the tensor (..., n, d) becomes (..., n - skip, d).
    `key` names the keyword argument, or the entry of a dict that is returned, where several tensors are.
    """

    module: str | nn.Module
    side: Side = "output"
    skip: int = 0
    key: str | None = None


@contextmanager
def capture(
    model: nn.Module,
    points: Mapping[str, Point | tuple[str | nn.Module, Side] | str | nn.Module],
    *,
    reduce: Callable[[Tensor], Any] | None = None,
    calls: int = 1,
    detach: bool = True,
) -> Iterator[Mapping[str, Any]]:
    """Record the hidden states that flow through `points` of `model` inside the `with` block.

    Hidden states are floating point with 2 or more dimensions, so masks, positions and losses are passed over. Of a
    tuple or list that a module takes or returns, the first such tensor is recorded; of a dict or of keyword
    arguments `last_hidden_state`, `hidden_states` or `inputs_embeds`, else the only one there is. Where there are
    several, `Point(module, side, key=NAME)` says which. All hooks are gone when the block ends, however it ends.

    Args:
        model: Any module.
        points: Name -> hook point: a module path as in `model.named_modules()` or a module object inside
            `model`, alone (its output), with a side (`input` or `output`), or as a `Point`.
        reduce: Called with the hidden states inside the hook, `mmerank.effective_rank` for example;
            what it returns is recorded in their place, so that they need not be kept.
        calls: How often each point must fire.
        detach: Record, and reduce, hidden states without gradient. With False they keep it, for a loss; so does
            `effective_rank(h, grad=True)`.

    Yields:
        Mapping from the names in `points` to what was recorded: a copy of the hidden states, or what
        `reduce` returned; for `calls` > 1 a list of them, in order. Filled while the block runs.

    Raises:
        LookupError: `model` has no module of that path, or the module object is not part of it.
        ValueError: A side is neither `input` nor `output`, or `calls` < 1.
        CaptureError: A point fired more often than `calls`, fewer times by the end of the block, carried no
            tensor, or several of which none is named.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> with capture(model, {"hidden": ("0", "output")}) as seen:
        ...     _ = model(torch.ones(5, 3))
        >>> tuple(seen["hidden"].shape)
        (5, 2)
    """
    if calls < 1:
        raise ValueError(f"calls must be at least 1, got {calls}")
    resolved = {name: _resolve(model, name, point) for name, point in points.items()}
    recorded: dict[str, list[Any]] = {name: [] for name in resolved}
    seen: dict[str, Any] = {}
    overflow: list[CaptureError] = []

    def record(name: str, point: Point, carried: Any) -> None:
        if len(recorded[name]) == calls:
            overflow.append(
                CaptureError(
                    f"hook point {name!r} ({_label(points[name])}) fired more than {_times(calls)}; "
                    "pass calls=N to ask for more, or run one forward per block"
                )
            )
            raise overflow[0]
        h = _tensor(carried, point.key)
        if h is None:
            raise CaptureError(f"hook point {name!r} ({_label(points[name])}): {_why_none(carried, point)}")
        h = h.detach() if detach else h
        h = h[..., point.skip :, :] if point.skip else h
        recorded[name].append(h.clone() if reduce is None else reduce(h))
        seen[name] = recorded[name][0] if calls == 1 else recorded[name]

    with ExitStack() as hooks:
        for name, point in resolved.items():
            hooks.callback(_attach(point, name, record).remove)
        yield seen
    if overflow:  # raised in the forward, where the caller may have caught it
        raise overflow[0]
    for name in resolved:
        if len(recorded[name]) < calls:
            fired = f"fired {_times(len(recorded[name]))}, not {_times(calls)}" if recorded[name] else "never fired"
            raise CaptureError(
                f"hook point {name!r} ({_label(points[name])}) {fired} inside the block; "
                "is that module part of the forward you ran?"
            )


def _resolve(model: nn.Module, name: str, asked: Any) -> Point:
    point = Point(asked) if isinstance(asked, (str, nn.Module)) else Point(*asked)
    if point.side not in ("input", "output"):
        raise ValueError(f"hook point {name!r}: side must be 'input' or 'output', got {point.side!r}")
    if isinstance(point.module, nn.Module):
        if not any(module is point.module for module in model.modules()):
            raise LookupError(f"hook point {name!r}: that {type(point.module).__name__} is not part of the model")
        return point
    if point.skip < 0:
        raise ValueError(f"hook point {name!r}: skip must not be negative, got {point.skip}")
    try:
        return point._replace(module=model.get_submodule(point.module))
    except AttributeError:
        modules = [path for path, _ in model.named_modules(remove_duplicate=False)]
        close = difflib.get_close_matches(point.module, modules, n=3, cutoff=0.4)
        hint = f"; close: {', '.join(map(repr, close))}" if close else "; model.named_modules() lists the paths"
        raise LookupError(f"hook point {name!r}: the model has no module {point.module!r}{hint}") from None


def _attach(point: Point, name: str, record: Callable[[str, Point, Any], None]) -> Any:
    assert isinstance(point.module, nn.Module)  # _resolve made it one
    if point.side == "input":

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            by_name = point.key is not None or not args or any(_is_states(kwargs.get(name)) for name in _STATES)
            record(name, point, kwargs if by_name else args)

        return point.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        record(name, point, output)

    return point.module.register_forward_hook(after)


_STATES = ("last_hidden_state", "hidden_states", "inputs_embeds")


def _is_states(value: Any) -> bool:
    """Whether this can be hidden states, (..., n, d): masks, positions and losses cannot."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2


def _tensor(carried: Any, key: str | None) -> Tensor | None:
    """The hidden states among what a module received or returned; None if there are none, or no telling which."""
    if key is not None:
        named = carried.get(key) if isinstance(carried, Mapping) else None
        return named if isinstance(named, Tensor) else None
    if _is_states(carried):
        states: Tensor = carried
        return states
    if isinstance(carried, Mapping):  # also transformers' ModelOutput
        found = next((carried[name] for name in _STATES if _is_states(carried.get(name))), None)
        candidates = _state_names(carried)
        if found is None and len(candidates) == 1:
            found = carried[candidates[0]]
        return found
    if isinstance(carried, (tuple, list)):
        return next((h for h in (_tensor(item, None) for item in carried) if h is not None), None)
    return None


def _state_names(carried: Mapping[str, Any]) -> list[str]:
    return [name for name, value in carried.items() if _is_states(value)]


def _why_none(carried: Any, point: Point) -> str:
    if point.key is None and isinstance(carried, Mapping) and (names := _state_names(carried)):
        return (
            f"several tensors in the module's {point.side} could be hidden states, {', '.join(names)}; "
            f"say which with Point(module, {point.side!r}, key=NAME)"
        )
    what = f"named {point.key!r}" if point.key is not None else "of floating point with 2 or more dimensions"
    return f"no tensor {what} in the module's {point.side}, which is {_shape_of(carried)}"


def _label(point: Any) -> str:
    module, side = (point, "output") if isinstance(point, (str, nn.Module)) else point[:2]
    return f"{side} of {module if isinstance(module, str) else type(module).__name__}"


def _shape_of(carried: Any) -> str:
    if isinstance(carried, Mapping):
        return f"a {type(carried).__name__} with {', '.join(map(str, carried)) or 'nothing'}"
    if isinstance(carried, (tuple, list)):
        return f"a {type(carried).__name__} of {', '.join(type(item).__name__ for item in carried) or 'nothing'}"
    return f"a {type(carried).__name__}"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
