"""What a model is fed: token ids and image places, each with its role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

Kind = Literal["image", "text", "pair"]
KINDS: tuple[Kind, ...] = ("image", "text", "pair")

IMAGE_ID = -200  # stands where a row of the connector's output goes; LLaVA's own code uses this number


class Role(IntEnum):
    """What a position of a sequence is."""

    BOS = 0
    TEMPLATE = 1
    IMAGE = 2
    TEXT = 3


@dataclass(frozen=True)
class TokenSequence:
    """What the LLM reads: token ids with the role of each, and what else the model takes with them.

    Attributes:
        ids: `IMAGE_ID`, or a token of the model's own, at image positions.
        roles: One for each position.
        extra: Further inputs by name, one value for each position.
        beside: Further inputs by name that belong to the sequence as a whole.
    """

    ids: tuple[int, ...]
    roles: tuple[Role, ...]
    extra: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    beside: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: TokenSequence) -> TokenSequence:
        """One behind the other, as ids and roles: further inputs of pieces are not those of the whole."""
        return TokenSequence(self.ids + other.ids, self.roles + other.roles)

    def starts_with(self, other: TokenSequence) -> bool:
        """Whether `other` is a prefix of this sequence, in ids and in all further inputs."""
        n = len(other)
        extra = {name: values[:n] for name, values in self.extra.items()}
        return self.ids[:n] == other.ids and extra == other.extra and self.beside == other.beside

    def without_last_text(self, count: int) -> TokenSequence:
        """The sequence without its last `count` text tokens; template tokens behind them stay."""
        text = [i for i, role in enumerate(self.roles) if role is Role.TEXT]
        dropped = set(text[max(len(text) - count, 0) :])
        return self.at([i for i in range(len(self)) if i not in dropped])

    def at(self, positions: Sequence[int]) -> TokenSequence:
        """The sequence of what stands at `positions`."""

        def kept(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in positions)

        extra = {name: kept(values) for name, values in self.extra.items()}
        return TokenSequence(kept(self.ids), kept(self.roles), extra, self.beside)

    def with_places(self, filled: Iterable[bool]) -> TokenSequence:
        """The sequence in which those image positions are template that hold no row of the picture.

        Args:
            filled: For each image position, whether it holds one.

        Returns:
            The same ids; where there is no image position, the sequence itself.
        """
        if Role.IMAGE not in self.roles:
            return self
        told = iter(filled)
        roles = [Role.TEMPLATE if role is Role.IMAGE and not next(told, True) else role for role in self.roles]
        return TokenSequence(self.ids, tuple(roles), self.extra, self.beside)


def tokens_of(ids: Sequence[int], role: Role) -> TokenSequence:
    """A sequence of `ids` that all have the same role."""
    return TokenSequence(tuple(ids), (role,) * len(ids))


def image_places(count: int) -> TokenSequence:
    """`count` places for the rows of the connector's output."""
    return tokens_of([IMAGE_ID] * count, Role.IMAGE)
