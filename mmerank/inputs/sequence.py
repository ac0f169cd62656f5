"""What a model is fed: token ids and image places, each with its role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Kind = Literal["image", "text", "pair"]

IMAGE_ID = -200  # stands where a row of the connector's output goes; LLaVA's own code uses this number


class Role(IntEnum):
    """What a position of a sequence is."""

    BOS = 0
    TEMPLATE = 1
    IMAGE = 2
    TEXT = 3


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, `IMAGE_ID` at image positions, with the role of each."""

    ids: tuple[int, ...]
    roles: tuple[Role, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: TokenSequence) -> TokenSequence:
        return TokenSequence(self.ids + other.ids, self.roles + other.roles)

    def starts_with(self, other: TokenSequence) -> bool:
        """Whether `other` is a prefix of this sequence."""
        return self.ids[: len(other)] == other.ids

    def without_last_text(self, count: int) -> TokenSequence:
        """The sequence without its last `count` text tokens; template tokens behind them stay."""
        text = [i for i, role in enumerate(self.roles) if role is Role.TEXT]
        dropped = set(text[max(len(text) - count, 0) :])
        return self.at([i for i in range(len(self)) if i not in dropped])

    def at(self, positions: Sequence[int]) -> TokenSequence:
        """The sequence of what stands at `positions`."""
        return TokenSequence(tuple(self.ids[i] for i in positions), tuple(self.roles[i] for i in positions))


def tokens_of(ids: Sequence[int], role: Role) -> TokenSequence:
    """A sequence of `ids` that all have the same role."""
    return TokenSequence(tuple(ids), (role,) * len(ids))


def image_places(count: int) -> TokenSequence:
    """`count` places for the rows of the connector's output."""
    return tokens_of([IMAGE_ID] * count, Role.IMAGE)
