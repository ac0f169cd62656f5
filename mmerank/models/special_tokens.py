"""BOS, EOS and further tokens: where a model's configuration, its tokenizer and its embedding do not agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmerank.errors import ModelError
from mmerank.models.stored import file_of, json_object
from mmerank.models.tokenizer import CONFIG


def special_cautions(
    tokenizer: Any,
    config: Mapping[str, Any],
    checkpoint: str | Path,
    revision: str | None = None,
    *,
    fed: Mapping[str, int | None] | None = None,
) -> tuple[str, ...]:
    """Where a model's configuration and its tokenizer say different things of the tokens around a text.

    What the tokenizer adds is what the model is fed. That is Qwen's intention, for example, whose configuration names
    a BOS that its tokenizer is said not to have (`"bos_token": null`): nothing is said then.

    Args:
        tokenizer: The model's.
        config: Content of config.json.
        checkpoint: Directory or hub id of the tokenizer.
        revision: On the hub; None for the newest.
        fed: The ids of `bos` and `eos` that a family or a processor puts around texts whatever the tokenizer does;
            None where that decides.

    Returns:
        A sentence for each contradiction.
    """
    settings = json_object(file_of(checkpoint, CONFIG, revision))
    around = tokenizer("a", verbose=False)["input_ids"] or [None]
    found = []
    for side, place in (("bos", 0), ("eos", -1)):
        stated, own = stated_ids(config, side), getattr(tokenizer, f"{side}_token_id")
        given = around[place] if fed is None else fed.get(side)
        if fed and side == "bos" and given is not None and settings.get("add_bos_token") is False:
            token = tokenizer.convert_ids_to_tokens(given)
            found.append(f"{CONFIG} says add_bos_token: false, and this family gets {token} in front all the same")
        if not stated or (own is None and settings.get(f"{side}_token", "") is None):
            continue
        if own is None:
            found.append(
                f"config.json names {side}_token_id {stated[0]}, and the tokenizer has no {side}_token: texts get "
                "none"
            )
        elif given != own and given == stated[0]:
            found.append(
                f"config.json says that {side.upper()} is {given}, and the tokenizer's "
                f"{getattr(tokenizer, f'{side}_token')} is {own}; config.json decides"
            )
        elif given == own and own not in stated:
            found.append(
                f"config.json says that {side.upper()} is {stated[0]}, and the tokenizer's "
                f"{getattr(tokenizer, f'{side}_token')} is {own}; the tokenizer decides"
            )
    return tuple(found)


def both(tokenizer: Any) -> dict[str, int | None]:
    """The tokenizer's own BOS and EOS, for a family that puts them around texts itself."""
    return {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}


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
        named = stated_ids(config, "bos")
        token = tokenizer.convert_ids_to_tokens(named[0]) if named else "<s>"
        raise ModelError(
            f"{checkpoint}: its tokenizer names no bos_token, and this family was trained with one in front; say "
            f'"bos_token": "{token}" in {CONFIG}'
        )


def stated_ids(config: Mapping[str, Any], side: str) -> list[int]:
    """The ids of BOS or EOS in a configuration, its own or those of its text model."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        value = part.get(f"{side}_token_id")
        if found := [i for i in (value if isinstance(value, list) else [value]) if type(i) is int]:
            return found
    return []


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
