"""What every loaded model has, whatever it reads: pairs, texts or pictures."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import get_annotations
from typing import Any, Protocol, Self

from torch import nn


class LoadedModel(Protocol):
    """The part that `Adapter` (pairs), `TextAdapter` (texts) and `Encoder` have in common.

    Attributes:
        name: The model as results name it.
        source: What was read from where, for the record: JSON values by name. Of a checkpoint: `adapter`,
            `checkpoint`, `commit`, `dtype`, `tokenizer`, `ignored`; also `configuration`, a hash, where no module
            has one as `config`. Of an untrained twin: `adapter`, `untrained` (true), `seed` and `dtype`.
            `mmerank.models.identity` adds what the model is when it is measured.
        model: The module that is run; hook points are paths in it.
        max_tokens: Longest sequence that it reads, special tokens included; 0 where it reads no text.
    """

    name: str
    source: Mapping[str, Any]
    model: nn.Module
    max_tokens: int

    def untrained(self, seed: int) -> Self:
        """The same configuration with fresh random weights, in eval mode; same tokenizer, dtype and device."""
        ...


def members(protocol: type) -> list[str]:
    """What a protocol asks for, in the order in which it is declared.

    Args:
        protocol: A class of declared attributes and methods, and the protocols it is made of.

    Returns:
        Names, what all models have first.
    """
    parts = [of for of in reversed(protocol.__mro__) if of is not Protocol and getattr(of, "_is_protocol", False)]
    names = [name for of in parts for name in (*get_annotations(of), *(n for n in vars(of) if not n.startswith("_")))]
    return list(dict.fromkeys(names))


def lacking(given: object, protocol: type) -> list[str]:
    """What an object lacks of a protocol, if it is nearly all there: a slip in an adapter of one's own.

    Args:
        given: What was given for one.
        protocol: As for `members`.

    Returns:
        Names, sorted; none if more than a third are missing, since it is something else then.
    """
    wanted = members(protocol)
    missing = sorted(name for name in wanted if not hasattr(given, name))
    return missing if 3 * len(missing) <= len(wanted) else []
