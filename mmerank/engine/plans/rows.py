"""Which rows of a sequence are measured, and what they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmerank.convention import Tokens
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.transfer import sent

# Those of the two modalities; every other token is the template's, or BOS.
MODALITIES = {Role.IMAGE, Role.TEXT}


@dataclass(frozen=True)
class Rows:
    """Some positions of a sequence, in rising order, and what they are."""

    places: list[int]
    tokens: TokenSequence

    @classmethod
    def counted(cls, sequence: TokenSequence, tokens: Tokens, *, bos: bool = True) -> Rows:
        """Those that enter the covariance under a convention's `tokens`, without BOS if so asked."""
        roles = set(Role) if tokens == "all" else MODALITIES
        if not bos:
            roles = roles - {Role.BOS}
        kept = [i for i, role in enumerate(sequence.roles) if role in roles]
        return cls(kept, sequence.at(kept))

    def of(self, h: Tensor) -> Tensor:
        """Their states among the sequence's, (n, d): neighbours without a copy, and nothing waits for a GPU."""
        places = self.places
        if places and places[-1] - places[0] == len(places) - 1:
            return h[places[0] : places[-1] + 1]
        return h[sent(torch.tensor(places, dtype=torch.long), h.device)]
