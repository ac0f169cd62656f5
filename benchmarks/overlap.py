"""What mmerank does beside the model, held against a stand-in for a GPU, whose passes take time but no processor.

Pictures, tokens, eigenvalues and records are what is left for the processor. Centring and Gram matrices, which a GPU
computes, are computed by the processor here and count as the device's share; they are made small.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import shapes
from benchmarks.clock import Stage, row
from mmerank import Example
from mmerank.computing import Computing
from mmerank.engine.plans.pair_passes import Loaded
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.plans.reading import Prepared
from mmerank.engine.probe import Probe
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import Point
from mmerank.models.sequences import padded
from mmerank.states.spectrum import PendingGram
from mmerank_adapters.llava import Llava

# Seconds that a pair takes in the model. LLaVA-1.5-7B computes 11.3 TFLOP for one: 0.03 s at 400 TFLOP/s.
PASSES_S = {"tiny": (0.005,), "small": (0.1, 0.2, 0.4), "full": (0.1, 0.2, 0.4)}
# Of which the vision encoder and the connector take so much, by the FLOPs of the 7B model.
VISION_SHARE = 0.03
BATCH = 2
# Narrow, because all that the width costs is the device's, but not narrower than there are tokens.
WIDTH = {"tiny": 64, "small": 704, "full": 704}


class Paced(Llava):
    """A LLaVA of the given width with the inputs of another one, whose passes compute nothing and wait.

    Args:
        inner: What pictures and texts are prepared for.
        width: Of all hidden states.
        seconds: What a pair takes.
        text: Tokens of its text.
        pair: Positions of picture and text.
    """

    def __init__(self, inner: Llava, width: int, seconds: float, text: int, pair: int):
        self.__dict__ |= vars(inner)
        self._vision_s, self._token_s = VISION_SHARE * seconds, (1 - VISION_SHARE) * seconds / (text + pair)
        torch.manual_seed(0)
        self._text = text
        self._rows = torch.randn(1, inner.image_tokens, width)
        self._states = torch.randn(1, pair, width)
        self.model = nn.ModuleDict({name: nn.Identity() for name in ("vision", "connector", "llm")})
        self.model.register_parameter("place", nn.Parameter(torch.zeros(())))
        self.points = {name: Point(name) for name in ("vision", "connector", "llm")}
        self.vision_points = {"default": self.points["vision"]}
        self.layers = (Point("connector"), self.points["llm"])

    def token_sets(self) -> Iterator[Tensor]:
        """What is measured of a pair: hidden states of each of the five kinds."""
        m, n = self.image_tokens, self._states.shape[1]
        yield self._rows[0]
        for rows in (m, m + 1, self._text, n):
            yield self._states[0, :rows]

    def encode_images(self, pixels: Sequence[Tensor], vision_point: str = "default") -> list[Encoded]:
        """As long as it takes."""
        b, m = len(pixels), self.image_tokens
        time.sleep(b * self._vision_s)
        return [Encoded(self._rows[0], self._states[0, :m])] * b

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """As long as it takes."""
        ids, _ = padded(sequences)
        time.sleep(ids.numel() * self._token_s)
        self.model["llm"](self._states[:, : ids.shape[1]].expand(len(ids), -1, -1))


def overlap(stage: Stage, size: str, examples: int) -> Iterator[dict[str, Any]]:
    """`mmerank.align` with and without a thread beside the model, on one core; wall time.

    Args:
        stage: Where and how often.
        size: See `benchmarks.shapes`.
        examples: How many pairs.

    Yields:
        A line for each speed of the model.
    """
    stage = replace(stage, device=torch.device("cpu"), waits=True)
    inner, _ = shapes.llava("tiny" if size == "tiny" else "small", stage.device, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        pairs = shapes.pairs(examples, size, Path(folder))
        text, pair = (len(inner.sequence(pairs[0], kind, "bare")) for kind in ("text", "pair"))
        for seconds in PASSES_S[size]:
            yield _line(stage, Paced(inner, WIDTH[size], seconds, text, pair), pairs, seconds)


def _line(stage: Stage, adapter: Paced, pairs: list[Example], seconds: float) -> dict[str, Any]:
    sets = [*adapter.token_sets()]
    longest = max(len(h) for h in sets)

    def probe(workers: int) -> Probe[Prepared, Loaded]:
        made = Probe(Pairs(adapter), Computing(BATCH * longest, workers))
        list(made.measure(pairs[:1]))  # on which prefixes are verified, once a run
        return made

    def device() -> None:
        for _ in pairs:
            time.sleep(seconds)
            for h in sets:
                PendingGram(h)

    alone, beside = probe(0), probe(1)
    works = {
        "device": device,
        "one after the other": lambda: list(alone.measure(pairs)),
        "beside": lambda: list(beside.measure(pairs)),
    }
    what = {"a pair in the model, s": seconds, "examples": len(pairs)}
    return row(stage, what, works, [(name, "device") for name in ("one after the other", "beside")], memory=False)
