"""Checkpoints of a training: which step a name states, and the order of steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

# As in `EleutherAI/pythia-160m@step1000`, `runs/opt/checkpoint-500`, `OLMo-1B@step20000-tokens84B`.
_STEP = re.compile(
    r"(?:^|[@/_.-])(?:global_?)?(?:step|checkpoint|ckpt|iter|epoch)[-_]?(\d+)(?:-tokens\w+)?/?$", re.IGNORECASE
)


def stated_step(name: str) -> tuple[str, int] | None:
    """The training and the step that a checkpoint's name states.

    Args:
        name: Of a model, with its revision behind an `@`.

    Returns:
        What stands before the step, and the step; None where there is none.

    Example:
        >>> stated_step("runs/opt/checkpoint-500"), stated_step("maker/pythia-160m@step1000"), stated_step("gpt2")
        (('runs/opt', 500), ('maker/pythia-160m', 1000), None)
    """
    found = _STEP.search(name)
    return (name[: found.start()], int(found.group(1))) if found else None


def by_step(items: Sequence[T], name: Callable[[T], str] = str) -> list[T]:
    """The same items, the checkpoints of each training in the order of their steps.

    Checkpoints change places among themselves; whatever else there is stays where it was put.

    Args:
        items: Any.
        name: Of an item, as for `stated_step`.

    Returns:
        As many.

    Example:
        >>> by_step(["opt/checkpoint-100", "gpt2", "opt/checkpoint-20", "opt/checkpoint-3"])
        ['opt/checkpoint-3', 'gpt2', 'opt/checkpoint-20', 'opt/checkpoint-100']
    """
    ordered = list(items)
    places: dict[str, list[tuple[int, int]]] = {}
    for i, item in enumerate(items):
        if stated := stated_step(name(item)):
            places.setdefault(stated[0], []).append((stated[1], i))
    for found in places.values():
        for place, (_, i) in zip(sorted(i for _, i in found), sorted(found), strict=True):
            ordered[place] = items[i]
    return ordered
