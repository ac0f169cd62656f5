"""What the weights of untrained twins are drawn with: part of every number that is held against them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmerank.errors import ModelError, UsageError
from mmerank.models.checkpoints import configuration
from mmerank.models.protocol import LoadedModel

# What configurations of transformers call it.
_RANGES = ("initializer_range", "init_std", "initializer_factor", "init_method_std")
# Those of them that are the standard deviation that weights are drawn with, and can be told by it.
_DEVIATIONS = ("initializer_range", "init_std")
# Matrices with fewer numbers do not tell their standard deviation.
_TELLING = 64


def initialisation(adapter: LoadedModel, init_range: float | None = None) -> dict[str, Any]:
    """What a twin of a model is drawn with, by the model's configuration.

    The width of the distribution decides the untrained eRank, and with it the sign of Diff-eRank: held against a twin
    that was drawn otherwise, a model has another number.

    Args:
        adapter: Any.
        init_range: What its twins are drawn with in place of what the configuration says.

    Returns:
        By the configuration's own names, which differ by family (`initializer_range`, `init_std`, ...), the value,
        and in `stated` whether the checkpoint's config.json states it, or the library's default was taken; None where
        the checkpoint cannot be looked at, as of a model in memory. In its place `given`, true, with `init_range`.
        Nothing of a family that draws by its own rules.

    Raises:
        UsageError: `init_range` is no such number, or the family draws by its own rules.
    """
    config = _of_language(adapter)
    found = {name: value for name in _RANGES if isinstance(value := getattr(config, name, None), (int, float))}
    if init_range is not None:
        if not (isinstance(init_range, (int, float)) and math.isfinite(init_range) and init_range > 0):
            raise UsageError(f"init_range: expected a standard deviation above 0, as 0.02, got {init_range!r}")
        names = [name for name in _DEVIATIONS if name in found]
        if not names:
            raise UsageError(
                f"{adapter.name}: its configuration has none of {', '.join(_DEVIATIONS)}, so its untrained twins are "
                "drawn by rules of its family; measure it without --init-range (init_range in Python)"
            )
        return {**dict.fromkeys(names, float(init_range)), "given": True}
    return {**found, "stated": _states(adapter.source, set(found))} if found else {}


@contextmanager
def drawn_at(adapter: LoadedModel, init_range: float | None) -> Iterator[None]:
    """Have the untrained twins that are built inside the block drawn with another standard deviation.

    The model itself is left as it is, and so is its configuration behind the block.

    Args:
        adapter: Any whose configuration names one, as `initialisation` says.
        init_range: The standard deviation; None for what the configuration says.

    Yields:
        Nothing.
    """
    config = _of_language(adapter)
    names = [] if init_range is None else [name for name in _DEVIATIONS if hasattr(config, name)]
    stated = {name: getattr(config, name) for name in names}
    try:
        for name in names:
            setattr(config, name, init_range)
        yield
    finally:
        for name, value in stated.items():
            setattr(config, name, value)


def check_drawn(twin: nn.Module, name: str, init_range: float) -> None:
    """Refuse a twin whose family names a standard deviation in its configuration, and draws by another.

    Args:
        twin: Just drawn.
        name: Of the trained model.
        init_range: The standard deviation that was asked for.

    Raises:
        ModelError: No matrix of it has that, within a tenth and what chance leaves.
    """
    for matrix in twin.parameters():
        if matrix.ndim > 1 and matrix.numel() >= _TELLING and matrix.is_floating_point():
            apart = abs(float(matrix.detach().float().std()) / init_range - 1)
            if apart < 0.1 + 3 / math.sqrt(2 * matrix.numel()):
                return
    raise ModelError(
        f"{name}: no matrix of its untrained twin has the standard deviation {init_range:g} that was asked for, so "
        "its family draws by rules of its own; measure it without --init-range (init_range in Python)"
    )


def unstated(found: dict[str, Any]) -> str:
    """What a reader must know of an initialisation; empty where there is nothing.

    Args:
        found: By `initialisation`.

    Returns:
        A sentence without a full stop.
    """
    if found.get("stated") is not False:
        return ""
    value = named(found)
    return (
        "config.json does not state the initialisation of untrained twins; transformers' default, "
        f"{value}, is taken, and the untrained eRank depends on it"
    )


def named(found: dict[str, Any]) -> str:
    """An initialisation in words, as `initializer_range 0.02`."""
    return ", ".join(f"{name} {value}" for name, value in found.items() if name not in ("stated", "given"))


def _of_language(adapter: LoadedModel) -> Any:
    """The configuration of a model's language model; None where it has none."""
    config: Any = getattr(adapter.model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _states(source: Any, names: set[str]) -> bool | None:
    checkpoint = source.get("checkpoint")
    if not isinstance(checkpoint, str):
        return None
    try:
        return _within(configuration(checkpoint, source.get("commit")), names)
    except (ModelError, OSError):
        return None


def _within(content: dict[str, Any], names: set[str]) -> bool:
    """Whether a configuration states one of these, in itself or in that of its language model."""
    return any(
        key in names or (isinstance(value, dict) and key in ("text_config", "llm_config") and _within(value, names))
        for key, value in content.items()
    )
