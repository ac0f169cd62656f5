"""How the entropy of a sequence's rows changes as rows are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmerank.states.token_set import TokenSet


@dataclass(frozen=True)
class Trajectory:
    """Entropy of the first `stride` rows, of the first 2 · `stride`, and so on, each set centred by its own mean.

    All of them are taken from the inner products of all rows, so that a row costs one product with each of those
    before it, whatever the stride.

    Attributes:
        stride: Rows that are added each time.
    """

    stride: int

    def fields(self, tokens: TokenSet, h: Tensor, *, example: str, point: str, input_kind: str) -> dict[str, Any]:
        """See `mmerank.states.reductions.RowStudy.fields`.

        Args:
            tokens: The rows, in their order.
            h: The same as hidden states, (n, d).
            example: Id of the example.
            point: Name of the hook point.
            input_kind: What was read.

        Returns:
            `stride`, and `trajectory`: entropies in nats, (n // stride,) float64, NaN where a set has none.
        """
        lengths = range(self.stride, tokens.n + 1, self.stride)
        entropies = [float(tokens.entropies(torch.arange(length)[None])) for length in lengths]
        return {"stride": self.stride, "trajectory": np.array(entropies, np.float64)}
