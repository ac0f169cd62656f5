"""Which layers of a language model are looked at, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmerank.models.hooks import Point


def layer_points(layers: Sequence[Point], chosen: str, *, last: str) -> dict[str, Point]:
    """Hook points by name for a choice of layers; the last one is always among them, and last.

    Layer I is the residual stream after block I, 0 the embeddings that enter the first block; the last one is
    after the final norm, as in transformers' `output_hidden_states`.

    Args:
        layers: All of the model's, in this order.
        chosen: Names joined by commas: `all`, `first` (after block 1), `middle` (half of the blocks), `last`, or
            numbers. Empty for the last one alone.
        last: What the last one is called; the others are `layer I`.

    Returns:
        Points by name, in the order of the model.

    Raises:
        ValueError: A name or number is unknown.

    Example:
        >>> from mmerank.models.hooks import Point
        >>> list(layer_points([Point(str(i)) for i in range(5)], "first,3", last="final"))
        ['layer 1', 'layer 3', 'final']
    """
    end = len(layers) - 1
    return {last if i == end else f"layer {i}": layers[i] for i in layer_numbers(end, chosen)}


def layer_numbers(end: int, chosen: str) -> list[int]:
    """The layers that a choice names, the last one always among them.

    Args:
        end: Number of the last layer.
        chosen: As for `layer_points`.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: A name or number is unknown.

    Example:
        >>> layer_numbers(4, "first,3")
        [1, 3, 4]
    """
    return sorted({end, *_numbers("layer", 0, end, chosen)})


def block_numbers(end: int, chosen: str) -> list[int]:
    """The blocks that a choice names. They are numbered as the layers behind them, and none is always among them.

    Args:
        end: Number of the last block; the first is 1.
        chosen: Names joined by commas: `all`, `first`, `middle` (half of the blocks), `last`, or numbers from 1 on.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: A name or number is unknown.

    Example:
        >>> block_numbers(4, "first,3")
        [1, 3]
    """
    return sorted(_numbers("block", 1, end, chosen))


def _numbers(what: str, first: int, end: int, chosen: str) -> set[int]:
    """Those of `first` to `end` that a choice names."""
    named = {"first": [1], "middle": [max(end // 2, first)], "last": [end], "all": range(first, end + 1)}
    numbers: set[int] = set()
    for word in filter(None, (part.strip() for part in chosen.split(","))):
        if word in named:
            numbers.update(named[word])
        elif word.isdecimal() and first <= int(word) <= end:
            numbers.add(int(word))
        else:
            raise ValueError(f"unknown {what} {word!r}; known: all, first, middle, last, {first} to {end}")
    return numbers


def encoder_layers(there: Sequence[int], chosen: str) -> list[int]:
    """The layers of an encoder that a choice names, the last one always among them.

    Args:
        there: Those that can be measured, counted from 1, ascending; at least one.
        chosen: As for `layer_points`; a number that this encoder does not have names nothing.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: A name is unknown.

    Example:
        >>> encoder_layers(range(1, 13), "first,middle")
        [1, 6, 12]
    """
    end = there[-1]
    words = [word for word in (part.strip() for part in chosen.split(",")) if not word.isdigit() or int(word) <= end]
    return sorted({*layer_numbers(end, ",".join(words))} & {*there})
