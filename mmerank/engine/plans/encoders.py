"""Encoders: eRank of a picture's patches and a text's tokens by layer, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from mmerank.convention import EncoderConvention
from mmerank.engine.batches import Budget, budget_for
from mmerank.engine.measurement import Measured, no_spectrum, unreadable
from mmerank.engine.plans.passes import Passes
from mmerank.engine.plans.pictures import of_versions, opened, waiting
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.window import Finish
from mmerank.errors import DataError, NoSpectrum, UsageError
from mmerank.inputs.contents import Content
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, Opened
from mmerank.inputs.sequence import TokenSequence
from mmerank.inputs.variants import BASE, Variant, Version
from mmerank.models.encoders.checks import picture
from mmerank.models.encoders.encoder import Encoder, Features, ReadText, Side
from mmerank.models.layers import encoder_layers
from mmerank.models.refusal import refusal
from mmerank.runs.record import Record
from mmerank.transfer import Arriving, for_each_tensor, sent


@dataclass(frozen=True)
class Prepared:
    """An example with what the text encoder reads of it, by version of its text; nothing without a text encoder."""

    example: Example
    read: Mapping[Version, ReadText]

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
    """The same with its picture, by version of it; where one cannot be made, the example's own and the reason."""

    item: Prepared
    content: Content
    pixels: Mapping[Version, Any]
    unreadable: Mapping[Version, DataError]
    outcomes: dict[tuple[Side, Version, int], Outcome] = field(default_factory=dict)  # by layer


@dataclass
class Encoders:
    """What is measured of pictures, and of texts where it reads them, with an encoder.

    Attributes:
        adapter: The encoder.
        convention: The choices in force.
        layers: Which of each side, see `mmerank.models.layers.encoder_layers`.
        max_pixels: Pictures with more are skipped.
        variants: What is measured of each example; the base is the first of them.
        chosen: The layers of each side, by number.

    Raises:
        UsageError: No such layer.
    """

    adapter: Encoder
    convention: EncoderConvention = field(default_factory=EncoderConvention)
    layers: str = "all"
    max_pixels: int = MAX_PIXELS
    variants: Sequence[Variant] = (BASE,)

    def __post_init__(self) -> None:
        try:
            self.chosen: dict[Side, list[int]] = {
                side: encoder_layers(there, self.layers) for side, there in self.adapter.layers.items()
            }
        except ValueError as error:
            raise UsageError(f"{self.adapter.name}: {error}") from None
        self._passes = Passes.of(self.variants)
        self._device = next(self.adapter.model.parameters()).device
        self._patches = 1  # of a picture; learned

    def afresh(self, max_pixels: int) -> Encoders:
        """The same of untouched examples alone.

        Args:
            max_pixels: Pictures with more are skipped.

        Returns:
            Another plan.
        """
        return replace(self, variants=(BASE,), max_pixels=max_pixels)

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """For patches and tokens."""
        budget = budget_for(device, asked, sum(map(len, self.chosen.values())))
        if budget.tokens:  # a first batch of pictures of unknown length may be any size
            with torch.inference_mode():
                self._learn(self.adapter.images(self._sent([self._pixels(picture())])))
        return budget

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
        """What is read of each version of its response."""
        read: dict[Version, ReadText] = {}
        for text in self._passes.texts if "text" in self.chosen else ():
            try:
                with refusal("its tokenizer fails on the text"):
                    read[text] = self.adapter.tokens(text.of(example).response)
            except DataError as error:
                return unreadable(example.id, error, _of(text.name))
            if len(read[text].ids) < 2:
                reason = f"{len(read[text].ids)} tokens; at least 2 are needed"
                return Skipped(example.id, f"{_of(text.name)}{reason}")
        return Prepared(example, read)

    def length(self, item: Prepared) -> int:
        """Patches and tokens."""
        return self._patches + max((len(read.ids) for read in item.read.values()), default=0)

    def load(self, item: Prepared) -> Loaded:
        """Each version of the picture, by the encoder's own preprocessing."""
        shown, content = opened(item.example, self.max_pixels)
        example = replace(item.example, image=shown)
        return Loaded(item, content, *of_versions(example, self._passes.images, self._pixels))

    def _pixels(self, shown: Opened) -> Any:
        assert not isinstance(shown, tuple)  # `usable` saw to it
        with refusal("its preprocessing fails on the picture"):
            return waiting(self.adapter.pixels(shown), self._device)

    def _sent(self, pixels: Sequence[Any]) -> list[Any]:
        return [for_each_tensor(of, partial(sent, device=self._device)) for of in pixels]

    def _learn(self, features: Features) -> None:
        self._patches = max(len(features.layers[0][layer]) for layer in self.chosen["image"])

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """A pass of each side for each version of what it reads."""
        of_each: dict[tuple[Side, Version], Callable[[], Features]] = {
            ("image", image): partial(self._images, batch, image) for image in self._passes.images
        }
        if "text" in self.chosen:
            of_each |= {("text", text): partial(self._texts, batch, text) for text in self._passes.texts}
        embeddings: dict[tuple[Side, Version], torch.Tensor] = {}
        for (side, version), run in of_each.items():
            with refusal():
                features = run()
            embeddings[side, version] = features.embeddings.float()
            if side == "image":
                self._learn(features)
            for loaded, states in zip(batch, features.layers, strict=True):
                cut = loaded.item.read[version].cut if side == "text" else 0
                for layer in self.chosen[side]:
                    of = ask(states[layer], loaded.item.id, f"layer {layer}", side, text_cut=cut)
                    loaded.outcomes[side, version, layer] = of
        return partial(self._results, batch, list(embeddings), Arriving(*embeddings.values()))

    def _images(self, batch: Sequence[Loaded], image: Version) -> Features:
        return self.adapter.images(self._sent([of.pixels[image] for of in batch]))

    def _texts(self, batch: Sequence[Loaded], text: Version) -> Features:
        return self.adapter.texts([of.item.read[text] for of in batch])

    def _results(
        self, batch: Sequence[Loaded], places: Sequence[tuple[Side, Version]], embeddings: Arriving
    ) -> Iterator[Measured | Skipped]:
        vectors = dict(zip(places, (of.numpy() for of in embeddings.wait()), strict=True))
        for i, loaded in enumerate(batch):
            yield self._result(loaded, {place: of[i] for place, of in vectors.items()})

    def _result(self, loaded: Loaded, vectors: Mapping[tuple[Side, Version], Any]) -> Measured | Skipped:
        """The records of an example, or why one of them is missing."""
        name, records = loaded.item.id, list[Record]()
        for variant in self.variants:
            where = "" if variant == BASE else _of(variant.name)
            if error := loaded.unreadable.get(variant.image):
                return unreadable(name, error, where)
            for side, layers in self.chosen.items():
                version = variant.image if side == "image" else variant.text
                vector = vectors[side, version]
                for layer in layers:
                    outcome = loaded.outcomes[side, version, layer].result()
                    if isinstance(outcome, NoSpectrum):
                        return no_spectrum(name, outcome, where)
                    own = {"embedding": vector.copy()} if layer == layers[-1] else {}
                    records.append(replace(outcome, transform=variant.name, **loaded.content._asdict(), **own))
                if not (np.isfinite(vector).all() and vector.any()):
                    return Skipped(name, f"{where}its {side} embedding is zero or not finite", suspect="model")
        return Measured(name, tuple(records), self.length(loaded.item))


def _of(name: str) -> str:
    """What stands before the reason that is of a variant."""
    return "" if name == BASE.name else f"{name}: "
