"""BOS, EOS and further tokens: where a model's configuration, its tokenizer and its embedding do not agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmerank.errors import ModelError
from mmerank.models.stored import file_of, json_object
from mmerank.models.tokenizer import CONFIG


def special_cautions(tokenizer: Any, config: Mapping[str, Any], checkpoint: str | Path) -> tuple[str, ...]:
    """Where a model's configuration and its tokenizer say different things of the tokens around a text.

    What the tokenizer adds is what the model is fed. That is Qwen's intention, for example, whose configuration names
    a BOS that its tokenizer is said not to have (`"bos_token": null`): nothing is said then.

    Args:
        tokenizer: The model's.
        config: Content of config.json.
        checkpoint: Directory or hub id.

    Returns:
        A sentence for each contradiction.
    """
    settings = json_object(file_of(checkpoint, CONFIG))
    found = []
    for side in ("bos", "eos"):
        stated, own = stated_id(config, side), getattr(tokenizer, f"{side}_token_id")
        if stated is None or (own is None and settings.get(f"{side}_token", "") is None):
            continue
        if own is None:
            found.append(
                f"config.json names {side}_token_id {stated}, and the tokenizer has no {side}_token: texts get none"
            )
        elif side == "bos" and own != stated and tokenizer("a", verbose=False)["input_ids"][0] == own:
            found.append(
                f"config.json says that BOS is {stated}, and the tokenizer's {tokenizer.bos_token} is {own}; the "
                "tokenizer decides"
            )
    return tuple(found)


def check_bos(tokenizer: Any, config: Mapping[str, Any], checkpoint: str | Path) -> None:
    """Refuse a tokenizer without the BOS that a family's published code puts in front.

    Args:
        tokenizer: The model's.
        config: Content of config.json.
        checkpoint: Where it came from, for the message.

    Raises:
        ModelError: It names no `bos_token`.
    """
    if tokenizer.bos_token_id is None:
        named = stated_id(config, "bos")
        token = "<s>" if named is None else tokenizer.convert_ids_to_tokens(named)
        raise ModelError(
            f"{checkpoint}: its tokenizer names no bos_token, and this family was trained with one in front; say "
            f'"bos_token": "{token}" in {CONFIG}'
        )


def stated_id(config: Mapping[str, Any], side: str) -> int | None:
    """The id of BOS or EOS in a configuration, its own or that of its text model; the first where it has several."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        value = part.get(f"{side}_token_id")
        first = value[0] if isinstance(value, list) and value else value
        if type(first) is int:
            return first
    return None


def size_cautions(tokenizer: Any, rows: int | None) -> tuple[str, ...]:
    """Whether a tokenizer has ids that the model has no embedding for; texts with one are skipped.

    Args:
        tokenizer: The model's.
        rows: Of the embedding; None where that is not known.

    Returns:
        A sentence, or nothing.
    """
    outside = {} if rows is None else {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not outside:
        return ()
    first = min(outside)
    return (
        f"the tokenizer has {len(outside)} tokens more than the embedding has rows ({rows}), from {first} "
        f"({outside[first]!r}) on; texts with one are skipped",
    )
