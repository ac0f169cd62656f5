"""Encoders: eRank of a picture's patches and a text's tokens by layer, and their embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from mmerank.convention import EncoderConvention
from mmerank.engine.batches import Budget, default_budget
from mmerank.engine.measurement import Measured, no_spectrum
from mmerank.engine.plans.pictures import opened, waiting
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.window import Finish
from mmerank.errors import NoSpectrum, UsageError
from mmerank.inputs.contents import Content
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.encoders.encoder import Encoder, Features, ReadText, Side
from mmerank.models.layers import encoder_layers
from mmerank.runs.record import Record
from mmerank.transfer import Arriving, for_each_tensor, sent


@dataclass(frozen=True)
class Prepared:
    """An example with what the text encoder reads of it; None where there is no text encoder."""

    example: Example
    read: ReadText | None

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """None: an encoder's own tokenizer makes what its own embedding is asked for."""
        return ()


@dataclass(frozen=True)
class Loaded:
    """The same with its picture."""

    item: Prepared
    pixels: Any
    content: Content


@dataclass
class Encoders:
    """What is measured of pictures, and of texts where it reads them, with an encoder.

    Attributes:
        adapter: The encoder.
        convention: The choices in force.
        layers: Which of each side, see `mmerank.models.layers.encoder_layers`.
        max_pixels: Pictures with more are skipped.
        chosen: The layers of each side, by number.

    Raises:
        UsageError: No such layer.
    """

    adapter: Encoder
    convention: EncoderConvention = field(default_factory=EncoderConvention)
    layers: str = "all"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        try:
            self.chosen: dict[Side, list[int]] = {
                side: encoder_layers(there, self.layers) for side, there in self.adapter.layers.items()
            }
        except ValueError as error:
            raise UsageError(f"{self.adapter.name}: {error}") from None
        self._device = next(self.adapter.model.parameters()).device
        self._patches = 1  # of a picture, known from the first

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """For patches and tokens; nothing is learned of memory, since the first pictures' lengths are not known."""
        return Budget(default_budget(device, sum(map(len, self.chosen.values()))) if asked is None else asked)

    def usable(self, example: Example) -> Example | Skipped:
        """Whether there is a picture and, where texts are read, a response; else texts are not looked at."""
        if example.image is None:
            return Skipped(example.id, "no image")
        if len(example.pictures) > 1:
            return Skipped(example.id, f"it has {len(example.pictures)} pictures, and an encoder reads one")
        if "text" in self.chosen and not example.response.strip():
            return Skipped(example.id, "the response, which is what a text encoder reads, is empty")
        return example

    def text(self, example: Example) -> str:
        """The response, where texts are read."""
        return example.response if "text" in self.chosen else ""

    def prepare(self, example: Example) -> Prepared | Skipped:
        """What is read of its response."""
        if "text" not in self.chosen:
            return Prepared(example, None)
        read = self.adapter.tokens(example.response)
        if len(read.ids) < 2:
            return Skipped(example.id, f"{len(read.ids)} tokens; at least 2 are needed")
        return Prepared(example, read)

    def length(self, item: Prepared) -> int:
        """Patches and tokens."""
        return self._patches + (len(item.read.ids) if item.read else 0)

    def load(self, item: Prepared) -> Loaded:
        """The picture, by the encoder's own preprocessing."""
        picture, content = opened(item.example, self.max_pixels)
        assert not isinstance(picture, tuple)  # `usable` saw to it
        return Loaded(item, waiting(self.adapter.pixels(picture), self._device), content)

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """A pass of each side."""
        on_device = [for_each_tensor(of.pixels, partial(sent, device=self._device)) for of in batch]
        features: dict[Side, Features] = {"image": self.adapter.images(on_device)}
        if "text" in self.chosen:
            features["text"] = self.adapter.texts([of.item.read for of in batch if of.item.read])
        embeddings = Arriving(*(of.embeddings.float() for of in features.values()))
        outcomes: list[dict[tuple[Side, int], Outcome]] = []
        for i, loaded in enumerate(batch):
            read = loaded.item.read
            cut: dict[Side, int] = {"image": 0, "text": read.cut if read else 0}
            outcomes.append(
                {
                    (side, layer): ask(
                        of.layers[i][layer], loaded.item.id, f"layer {layer}", side, text_cut=cut[side]
                    )
                    for side, of in features.items()
                    for layer in self.chosen[side]
                }
            )
        self._patches = max(len(features["image"].layers[0][layer]) for layer in self.chosen["image"])
        return partial(self._results, batch, outcomes, list(features), embeddings)

    def _results(
        self,
        batch: Sequence[Loaded],
        outcomes: Sequence[Mapping[tuple[Side, int], Outcome]],
        sides: Sequence[Side],
        embeddings: Arriving,
    ) -> Iterator[Measured | Skipped]:
        vectors = dict(zip(sides, (of.numpy() for of in embeddings.wait()), strict=True))
        for i, (loaded, futures) in enumerate(zip(batch, outcomes, strict=True)):
            found = {where: future.result() for where, future in futures.items()}
            bad = next((of for of in found.values() if isinstance(of, NoSpectrum)), None)
            if bad is not None:
                yield no_spectrum(loaded.item.id, bad)
                continue
            if side := next((side for side in sides if not _directed(vectors[side][i])), None):
                yield Skipped(loaded.item.id, f"its {side} embedding is zero or not finite", suspect="model")
                continue
            records = []
            for (side, layer), outcome in found.items():
                assert isinstance(outcome, Record)
                last = layer == self.chosen[side][-1]
                embedding = {"embedding": vectors[side][i].copy()} if last else {}
                records.append(replace(outcome, **loaded.content._asdict(), **embedding))
            yield Measured(loaded.item.id, tuple(records), self.length(loaded.item))


def _directed(vector: Any) -> bool:
    return bool(np.isfinite(vector).all() and vector.any())
