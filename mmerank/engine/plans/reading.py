"""What the LLM reads of a pair: sequences for each version of its picture and of its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmerank.convention import SequenceForm
from mmerank.engine.measurement import unreadable
from mmerank.engine.plans.margin import NO_RESPONSE, response_places
from mmerank.engine.plans.passes import Passes
from mmerank.errors import DataError
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import open_pictures
from mmerank.inputs.sequence import KINDS, Kind, Role, TokenSequence
from mmerank.inputs.variants import ORIGINAL, Version
from mmerank.models.adapter import Adapter


@dataclass(frozen=True)
class Reading:
    """What the LLM reads of one version of an example's picture and of its text."""

    sequences: dict[Kind, TokenSequence]
    text_cut: int


@dataclass(frozen=True)
class Prepared:
    """An example with what the LLM will read for it.

    Attributes:
        example: As it is measured.
        readings: By versions of its picture and of its text; of the own picture alone where its rows do not depend
            on the version.
        responses: For each version of the text whose loss is read: which of its tokens are predicted, see
            `mmerank.engine.plans.margin.response_places`.
        refused: Why other examples' pictures cannot stand in the place of the own one.
    """

    example: Example
    readings: Mapping[tuple[Version, Version], Reading]
    responses: Mapping[Version, tuple[int, ...] | str] = field(default_factory=dict)
    refused: Mapping[Version, DataError] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def own(self) -> dict[Kind, TokenSequence]:
        """The sequences of the example's own picture and text."""
        return self.readings[ORIGINAL, ORIGINAL].sequences

    @property
    def sequences(self) -> Iterator[TokenSequence]:
        """All of them."""
        return (sequence for reading in self.readings.values() for sequence in reading.sequences.values())

    @property
    def longest(self) -> int:
        """Positions of the longest pass."""
        return max(len(reading.sequences["pair"]) for reading in self.readings.values())

    def reading(self, image: Version, text: Version) -> Reading:
        """What is read of a version of the picture and one of the text."""
        return self.readings.get((image, text)) or self.readings[ORIGINAL, text]


@dataclass(frozen=True)
class Reader:
    """Token sequences of examples: each version of a text, cut so that the longest sequence with it fits.

    Attributes:
        adapter: The model.
        form: Of the sequences.
        passes: Which versions there are.
        max_pixels: Pictures with more are not opened.
    """

    adapter: Adapter
    form: SequenceForm
    passes: Passes
    max_pixels: int

    def prepared(self, example: Example) -> Prepared | Skipped:
        """The sequences of an example, or why there are none. A DataError where it cannot be read."""
        shown, _ = self._shown(example, self.passes.images)
        others, refused = self._shown(example, self.passes.others)
        responses: dict[Version, tuple[int, ...] | str] = {}
        found: dict[tuple[Version, Version], Reading] = {}
        for text in self.passes.texts:
            try:
                of_text = text.of(example)
            except DataError as error:  # of a function of one's own
                return unreadable(example.id, error, f"{text.name}: ")
            # Another picture may have other rows; a text is cut at one place, whatever picture it stands beside.
            each = {image: self.reading(replace(of_text, image=picture)) for image, picture in shown.items()}
            if None in each.values():
                return Skipped(example.id, f"longer than {self._limit} without any text")
            cut = max(reading.text_cut for reading in each.values() if reading is not None)
            for image, reading in each.items():
                assert reading is not None
                if reading.text_cut < cut:
                    reading = self.reading(replace(of_text, image=shown[image]), cut)
                    assert reading is not None
                found[image, text] = reading
            if text not in self.passes.predicted:
                continue
            # Another example's picture may leave less room for the text, but takes none from the own one.
            for image, picture in others.items():
                if (reading := self.reading(replace(of_text, image=picture), cut)) is None:
                    refused[image] = DataError(f"another picture, and no text, is longer than {self._limit}")
                else:
                    found[image, text] = reading
            responses[text] = self._response(replace(of_text, image=shown[ORIGINAL]), text, found)
        return Prepared(example, found, responses, refused)

    def _shown(
        self, example: Example, versions: Sequence[Version]
    ) -> tuple[dict[Version, Any], dict[Version, DataError]]:
        """The pictures that sequences are made for: each version where their rows depend on it, opened.

        Returns:
            They, and why some cannot be made, which is told when they are to be measured; the own picture stands in
            their place.
        """
        if self.adapter.image_tokens:
            return ({ORIGINAL: example.image} if ORIGINAL in versions else {}), {}
        if not versions:
            return {}, {}
        assert example.image is not None  # the plan saw to it
        opened = replace(example, image=open_pictures(example.image, max_pixels=self.max_pixels))
        shown, refused = {}, {}
        for image in versions:
            try:
                shown[image] = image.of(opened).image
            except DataError as error:
                shown[image], refused[image] = opened.image, error
        return shown, refused

    def _response(
        self, example: Example, text: Version, found: Mapping[tuple[Version, Version], Reading]
    ) -> tuple[int, ...] | str:
        """The tokens of a response that are predicted: those that are read beside each of the pictures."""
        without = self.adapter.sequence(replace(example, response=""), "pair", self.form)
        places = response_places(found[ORIGINAL, text].sequences["pair"], without)
        if isinstance(places, str):
            return places
        read = min(of.sequences["pair"].roles.count(Role.TEXT) for (_, its), of in found.items() if its == text)
        return tuple(place for place in places if place < read) or NO_RESPONSE

    @property
    def _limit(self) -> str:
        return f"the model's limit of {self.adapter.max_tokens} tokens"

    def reading(self, example: Example, cut: int = 0) -> Reading | None:
        """What the LLM reads of an example, the same text in all sequences.

        Args:
            example: With a text.
            cut: Leave at least so many text tokens out.

        Returns:
            Sequences that fit into the model, or None if they are too long without any text.
        """
        sequences = {kind: self.adapter.sequence(example, kind, self.form) for kind in KINDS}
        cut = max(len(sequences["pair"]) - self.adapter.max_tokens, cut)
        if cut:
            for kind in KINDS:
                sequences[kind] = sequences[kind].without_last_text(cut)
            if len(sequences["pair"]) > self.adapter.max_tokens:
                return None
        return Reading(sequences, cut)
