"""The image input, read from the prefix of a pair pass: where it may be, and the check that it holds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmerank.inputs.sequence import Kind, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import capture

# Largest relative difference between a prefix read from the pair pass and a pass of its own that is still
# rounding. Attention that is not causal differs by 0.1 and more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}


@dataclass
class Prefix:
    """What is known of a model's prefixes, verified on its first example.

    Attributes:
        adapter: The model.
        wanted: Whether prefixes may be read at all.
        verified: Whether one was compared with a pass of its own, and is the same.
        refuted: Whether one was, and is not.
    """

    adapter: Adapter
    wanted: bool
    verified: bool = False
    refuted: bool = False

    @property
    def shared(self) -> bool:
        """Whether prefixes may be read, for all that is known."""
        return self.wanted and not self.refuted

    def may_be_read(self, sequences: Mapping[Kind, TokenSequence]) -> bool:
        """Whether the image input is a prefix of the pair input, and the LLM is said to be causal."""
        return self.shared and self.adapter.causal and sequences["pair"].starts_with(sequences["image"])

    def holds(self, alone_in: TokenSequence, image: Encoded, prefix: Tensor) -> bool:
        """Compare the prefix read from the first pair pass with a pass of its own; done once.

        Args:
            alone_in: The image input.
            image: Its picture.
            prefix: The states read, (n, d).

        Returns:
            Whether they are equal but for rounding. If not, prefixes are not read any more, with a warning.
        """
        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}) as seen:
            self.adapter.decode([alone_in], [image])
        alone = seen["llm"][0].double()
        difference = float((alone - prefix.double()).norm() / alone.norm())
        if not math.isfinite(difference):
            return False  # this example is skipped, and another one tells
        self.verified = difference <= TOLERANCE[prefix.dtype]
        if not self.verified:
            self.refuted = True
            warnings.warn(
                f"{self.adapter.name}: the LLM's hidden states of the image depend on the text behind it (relative "
                f"difference {difference:.1e}), so the image input gets a pass of its own",
                stacklevel=2,
            )
        return self.verified
