"""What the weights of untrained twins are drawn with: part of every number that is held against them."""

from __future__ import annotations

from typing import Any

from mmerank.errors import ModelError
from mmerank.models.adapter import Adapter
from mmerank.models.checkpoints import configuration
from mmerank.models.loading import TextAdapter

# What configurations of transformers call it.
_RANGES = ("initializer_range", "init_std", "initializer_factor", "init_method_std")


def initialisation(adapter: Adapter | TextAdapter) -> dict[str, Any]:
    """What a twin of a model is drawn with, by the model's configuration.

    The width of the distribution decides the untrained eRank, and with it the sign of Diff-eRank: held against a twin
    that was drawn otherwise, a model has another number.

    Args:
        adapter: Any.

    Returns:
        By the configuration's own names, which differ by family (`initializer_range`, `init_std`, ...), the value,
        and in `stated` whether the checkpoint's config.json states it, or the library's default was taken; None where
        the checkpoint cannot be looked at, as of a model in memory. Nothing of a family that draws by its own rules.
    """
    config = getattr(adapter.model, "config", None)
    if config is None:
        return {}
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = {name: value for name in _RANGES if isinstance(value := getattr(inner, name, None), (int, float))}
    if not found:
        return {}
    return {**found, "stated": _states(adapter.source, set(found))}


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
    return ", ".join(f"{name} {value:g}" for name, value in found.items() if name != "stated")


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
