"""Adapter x examples -> records. The only place with a batch loop and a device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from mmerank.convention import Convention
from mmerank.engine.batches import budget_for
from mmerank.engine.collect import Measured, in_batches
from mmerank.engine.measurement import Measurement, measurement_fingerprint, no_spectrum
from mmerank.engine.metrics import Metrics, keeps_mean_states
from mmerank.engine.workers import Workers, default_workers
from mmerank.eranks import ERANKS
from mmerank.errors import CaptureError, DataError, NoSpectrum, SourceError, TransformFailed, UsageError
from mmerank.inputs.contents import Content, content_of, picture_stamp
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, open_picture
from mmerank.inputs.placeholders import placeholders, without_placeholder
from mmerank.inputs.sequence import Kind, Role, TokenSequence, image_places
from mmerank.inputs.variants import BASE, ORIGINAL, Variant, Version
from mmerank.models.adapter import Adapter
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import capture
from mmerank.models.identity import identity
from mmerank.models.layers import layer_points
from mmerank.models.sequences import SpecialTokens, outside
from mmerank.models.soundness import embedding_rows
from mmerank.models.wrapped import evaluated
from mmerank.runs.record import Record
from mmerank.states.reductions import RowStudy
from mmerank.transfer import for_each_tensor, sent

KINDS: tuple[Kind, ...] = ("image", "text", "pair")
# Largest relative difference between a prefix read from the pair pass and a pass of its own that is still
# rounding. Attention that is not causal differs by 0.1 and more.
PREFIX_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Reading:
    """What the LLM reads of one version of an example's picture and of its text."""

    sequences: dict[Kind, TokenSequence]
    text_cut: int


@dataclass(frozen=True)
class Prepared:
    """An example with what the LLM will read for it, by versions of its picture and of its text."""

    example: Example
    readings: dict[tuple[Version, Version], Reading]

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def sequences(self) -> dict[Kind, TokenSequence]:
        """Those of the example's own picture and text."""
        return self.readings[ORIGINAL, ORIGINAL].sequences

    @property
    def longest(self) -> int:
        """Positions of the longest pass."""
        return max(len(reading.sequences["pair"]) for reading in self.readings.values())


# Hook point, input, of which picture and which text (None where it does not matter), and whether rows were stacked.
_Key = tuple[str, str, Version | None, Version | None, bool]


@dataclass
class _Found:
    """What the model is fed for an example, and what has been measured of it so far."""

    item: Prepared
    content: Content
    pixels: dict[Version, Any]
    unreadable: dict[Version, DataError]  # in the place of which `pixels` has the example's own
    outcomes: dict[_Key, Future[Record | NoSpectrum]] = field(default_factory=dict)
    rows: dict[_Key, tuple[Tensor, TokenSequence]] = field(
        default_factory=dict
    )  # what is stacked when the batch is through
    tokens: int = 0
    filled: dict[Version, Sequence[bool]] = field(default_factory=dict)  # of a picture's places, where not all

    def read(self, image: Version, text: Version) -> dict[Kind, TokenSequence]:
        """What the LLM reads, by kind of input."""
        sequences = self.item.readings[image, text].sequences
        if (filled := self.filled.get(image)) is None:
            return sequences
        return {kind: sequence.with_places(filled) for kind, sequence in sequences.items()}


@dataclass(frozen=True)
class _Rows:
    """Some positions of a sequence, in rising order, and what they are."""

    places: list[int]
    tokens: TokenSequence

    def of(self, h: Tensor) -> Tensor:
        """Their states among the sequence's, (n, d): neighbours without a copy, and nothing waits for a GPU."""
        places = self.places
        if places and places[-1] - places[0] == len(places) - 1:
            return h[places[0] : places[-1] + 1]
        return h[sent(torch.tensor(places, dtype=torch.long), h.device)]


@dataclass
class Probe:
    """Measures examples, and variants of them, with one model under one convention.

    Vision encoder and connector run once per version of the picture, the text pass once per version of the text,
    and the pair pass once per pair of them that a variant asks for. The image input is read from the prefix of a
    pair pass where it is one and the model is causal, which is verified on the first example. Hidden states become
    spectra and are not kept, but for what a variant stacks, until its batch is through; with workers those of two
    batches may be held.

    Attributes:
        adapter: The model.
        convention: The choices in force.
        batch_tokens: Most LLM positions in a batch, padding included; an example that is longer runs alone.
            Default: one example a batch on a CPU, where batching does not pay, elsewhere up to 8192: see
            `mmerank.engine.batches.Budget`.
        share_prefix: Whether the image input may be read from the pair pass.
        max_pixels: Pictures with more are skipped.
        workers: Threads that open pictures and compute eigenvalues beside the model. Default: none on a CPU, where
            the model itself takes all cores, and elsewhere one for each core but one. Numbers are equal to rounding.
        variants: What is measured of each example; the base is the first of them.
        layers: Further layers at which the pair is measured, in the same pass: all rows, image rows and text rows.
            See `mmerank.models.layers.layer_points`.
        placeholders: What stands for a picture in a text, see `mmerank.inputs.placeholders`.
        source: What the model is known by. Default: its `mmerank.models.identity`, taken now.

    Raises:
        UsageError: The adapter has no vision point of that name, fewer rows for a picture than are to be matched, or
            no such layer.
    """

    adapter: Adapter
    convention: Convention = field(default_factory=Convention)
    batch_tokens: int | None = None
    share_prefix: bool = True
    max_pixels: int = MAX_PIXELS
    workers: int | None = None
    variants: Sequence[Variant] = (BASE,)
    layers: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    placeholders: tuple[str, ...] = field(default=(), init=False)
    _prefix_verified: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        known = self.adapter.vision_points
        if self.convention.vision_point not in known:
            raise UsageError(
                f"{self.adapter.name}: unknown vision point {self.convention.vision_point!r}; "
                f"known: {', '.join(known)}"
            )
        least = self.adapter.image_tokens
        if least and (self.convention.match_tokens or 0) > least:
            raise UsageError(
                f"{self.adapter.name}: {self.convention.match_tokens} rows cannot be drawn to match, a picture has "
                f"only {least} behind the connector"
            )
        self._special_tokens = SpecialTokens(self.adapter.tokenizer)
        self.placeholders = placeholders(self.adapter.model, self.adapter.tokenizer)
        self._device = next(self.adapter.model.parameters()).device
        self._rows = embedding_rows(self.adapter.model)
        try:
            self._layers = layer_points(self.adapter.layers, self.layers, last="llm")
        except ValueError as error:
            raise UsageError(f"{self.adapter.name}: {error}") from None
        del self._layers["llm"]  # measured anyway
        self._workers = Workers(default_workers(self._device) if self.workers is None else self.workers)
        self._budget = budget_for(self._device, self.batch_tokens, 1 + len(self._layers))
        self.source = self.source or identity(self.adapter)
        self._fingerprint = measurement_fingerprint(self.source, self.convention)
        measured = [*ERANKS.values(), *((point, "pair") for point in self._layers)]
        missing = [ERANKS[label] for label in self.adapter.undefined]
        self._measured = [where for where in measured if where not in missing]
        self._keep_means = keeps_mean_states(self.convention)
        whole = [variant for variant in self.variants if variant.read == "all"]
        self._with_metrics = {_key(*where, variant) for where in self._measured for variant in whole}
        # Dictionaries, for their order.
        self._texts = dict.fromkeys(variant.text for variant in self.variants)
        self._text_passes = dict.fromkeys(v.text for v in self.variants if v.read != "pair")
        self._images = dict.fromkeys([ORIGINAL, *(variant.image for variant in self.variants)])
        self._pair_passes: dict[Version, dict[Version, None]] = {}
        for variant in self.variants:
            if variant.read != "stacked":
                self._pair_passes.setdefault(variant.image, {})[variant.text] = None
        stacked = [variant for variant in self.variants if variant.read == "stacked"]
        self._kept = {key for v in stacked for key in (_key("llm", "image", v), _key("llm", "text", v))}

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each example, in the order in which batches finish, which is not that of `examples`.

        An example is skipped as a whole if any measurement of any variant cannot be made, so that all stand on
        the same examples.

        Args:
            examples: Any number; those already skipped are passed on.

        Yields:
            One result for each of `examples`.
        """
        with evaluated(self.adapter.model), self._workers:
            yield from in_batches(
                examples,
                prepare=self.prepare,
                length=lambda item: item.longest,
                load=self._load,
                start=self._start,
                budget=self._budget,
                workers=self._workers,
            )

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Token sequences of an example: each version of its text, cut so that the longest sequence with it fits.

        Args:
            example: With a picture and a text.

        Returns:
            The sequences, or why there are none.
        """
        if example.image is None:
            return Skipped(example.id, "no image")
        plain = without_placeholder(self.placeholders, example)
        if isinstance(plain, Skipped):
            return plain
        example = plain
        if not example.text.strip():
            return Skipped(example.id, "the text is empty")
        self._special_tokens.look_at(example.id, example.text)
        try:
            return self._prepared(example)
        except DataError as error:
            return _unreadable(example, error)

    def _prepared(self, example: Example) -> Prepared | Skipped:
        shown = self._shown(example)
        found: dict[tuple[Version, Version], Reading] = {}
        for text in self._texts:
            try:
                of_text = text.of(example)
            except DataError as error:  # of a function of one's own
                return _unreadable(example, error, f"{text.name}: ")
            # Another picture may have other rows; a text is cut at one place, whatever picture it stands beside.
            each = {image: self.reading(replace(of_text, image=picture)) for image, picture in shown.items()}
            if None in each.values():
                limit = self.adapter.max_tokens
                return Skipped(example.id, f"longer than the model's limit of {limit} tokens without any text")
            cut = max(reading.text_cut for reading in each.values() if reading is not None)
            for image, reading in each.items():
                assert reading is not None
                if reading.text_cut < cut:
                    reading = self.reading(replace(of_text, image=shown[image]), cut)
                    assert reading is not None
                found[image, text] = reading
        for reading in found.values():
            for sequence in reading.sequences.values():
                if reason := outside(sequence, self._rows, self.adapter.tokenizer):
                    return Skipped(example.id, reason)
        if self.adapter.image_tokens:
            found = {(image, text): found[ORIGINAL, text] for image in self._images for text in self._texts}
        return Prepared(example, found)

    def _shown(self, example: Example) -> dict[Version, Any]:
        """The pictures that sequences are made for: each version where their rows depend on it, opened."""
        if self.adapter.image_tokens:
            return {ORIGINAL: example.image}
        assert example.image is not None  # prepare saw to it
        opened = replace(example, image=open_picture(example.image, max_pixels=self.max_pixels))
        shown = {}
        for image in self._images:
            try:
                shown[image] = image.of(opened).image
            except DataError:  # told when it is to be measured
                shown[image] = opened.image
        return shown

    def reading(self, example: Example, cut: int = 0) -> Reading | None:
        """What the LLM reads of an example, the same text in all sequences.

        Args:
            example: With a text.
            cut: Leave at least so many text tokens out.

        Returns:
            Sequences that fit into the model, or None if they are too long without any text.
        """
        sequences = {kind: self.adapter.sequence(example, kind, self.convention.sequence) for kind in KINDS}
        cut = max(len(sequences["pair"]) - self.adapter.max_tokens, cut)
        if cut:
            for kind in KINDS:
                sequences[kind] = sequences[kind].without_last_text(cut)
            if len(sequences["pair"]) > self.adapter.max_tokens:
                return None
        return Reading(sequences, cut)

    def _load(self, item: Prepared) -> _Found | Skipped:
        """The encoder's input for each version of an example's picture."""
        assert item.example.image is not None  # prepare saw to it
        try:
            stamp = picture_stamp(item.example.image)  # before: what is written meanwhile is looked at again
            picture = open_picture(item.example.image, max_pixels=self.max_pixels)
            opened = replace(item.example, image=picture)
            own = self._pixels(opened, ORIGINAL)
        except DataError as error:
            return _unreadable(item.example, error)
        content = content_of(item.example, picture, stamp)
        found = _Found(item, content, dict.fromkeys(self._pair_passes, own), {})
        for image in self._pair_passes:
            try:
                if image != ORIGINAL:
                    found.pixels[image] = self._pixels(opened, image)
            except DataError as error:
                found.unreadable[image] = error
        return found

    def _pixels(self, opened: Example, image: Version) -> Any:
        picture = image.of(opened).image
        assert isinstance(picture, Image.Image)
        pixels = self.adapter.pixels(picture, self.convention.image_layout)
        # Only from pinned memory does a GPU copy while the CPU goes on.
        return for_each_tensor(pixels, Tensor.pin_memory) if self._device.type == "cuda" else pixels

    def _start(self, batch: list[_Found]) -> Callable[[], Iterable[Measured | Skipped]]:
        self._measure(batch)
        return lambda: map(self._result, batch)

    @torch.inference_mode()
    def _measure(self, batch: list[_Found]) -> None:
        for text in self._text_passes:
            self._decode(batch, "text", text=text)
        for image, texts in self._pair_passes.items():
            images = self._encode(batch, image)
            first, *others = texts
            self._decode_with_image(batch, image, first, images)
            self._read_images(batch, image, images)  # behind the pair pass, since some connectors read the text
            for text in others:
                self._decode(batch, "pair", text=text, image=image, images=images)
        for variant in self.variants:
            if variant.read == "stacked":
                for found in batch:
                    (h_image, image_rows), (h_text, text_rows) = (
                        found.rows[_key("llm", kind, variant)] for kind in ("image", "text")
                    )
                    key = _key("llm", "pair", variant)
                    h, rows = torch.cat([h_image, h_text]), image_rows + text_rows
                    found.outcomes[key] = self._outcome(h, rows, key, found.item)
        for found in batch:
            found.rows.clear()

    def _encode(self, batch: Sequence[_Found], image: Version) -> list[Encoded]:
        """The rows of a version of the pictures."""
        each = [found.pixels[image] for found in batch]
        if self._device.type == "cuda":
            each = [for_each_tensor(pixels, lambda tensor: sent(tensor, self._device)) for pixels in each]
        images = self.adapter.encode_images(each, self.convention.vision_point)
        for found, of in zip(batch, images, strict=True):
            if of.filled is not None:
                found.filled[image] = of.filled
        return images

    def _read_images(self, batch: Sequence[_Found], image: Version, images: Sequence[Encoded]) -> None:
        for point in ("vision", "connector"):
            key = _key(point, "image", Variant("", image))
            for found, of in zip(batch, images, strict=True):
                h = getattr(of, point)
                found.outcomes[key] = self._outcome(h, image_places(len(h)), key, found.item)

    def _decode_with_image(
        self, batch: Sequence[_Found], image: Version, text: Version, images: list[Encoded]
    ) -> None:
        """The pair pass, and the image input from its prefix, or by a pass of its own."""
        wanted = ERANKS["erank3"] in self._measured
        shared = [wanted and self._may_share(found.read(image, text)) for found in batch]
        prefix = self._decode(batch, "pair", text=text, image=image, images=images, also_image=shared)
        if prefix is not None:
            first = shared.index(True)
            alone_in = batch[first].read(image, text)["image"]
            if not self._prefix_holds(alone_in, images[first], prefix):
                shared = [False] * len(batch)
        own = [i for i, is_shared in enumerate(shared) if wanted and not is_shared]
        if own:
            some = [images[i] for i in own]
            self._decode([batch[i] for i in own], "image", text=text, image=image, images=some)

    def _decode(
        self,
        batch: Sequence[_Found],
        kind: Kind,
        *,
        text: Version,
        image: Version = ORIGINAL,
        images: Sequence[Encoded] | None = None,
        also_image: Sequence[bool] = (),
    ) -> Tensor | None:
        """One pass of the LLM over the `kind` sequences, read also as image input where `also_image` says so.

        Returns:
            The states of the first image prefix, (n, d), until prefixes are known to be safe to read.

        Raises:
            CaptureError: The adapter ran fewer sequences than it was given.
        """
        of = Variant("", image, text)
        read = [found.read(image, text) for found in batch]
        kinds: list[list[Kind]] = [[kind] for _ in batch]
        for i, is_shared in enumerate(also_image):
            if is_shared:
                kinds[i].append("image")
        # Once for all layers, and before the pass, not in its hooks.
        counted = [
            {input_kind: self._counted(sequences[input_kind]) for input_kind in inputs}
            for sequences, inputs in zip(read, kinds, strict=True)
        ]
        prefixes: list[Tensor] = []
        waiting = iter(zip(batch, read, counted, strict=True))
        first = list(also_image).index(True) if any(also_image) and not self._prefix_verified else None

        def reduce(h: Tensor) -> None:
            for states, (found, sequences, inputs) in zip(h, waiting, strict=False):
                for input_kind, rows in inputs.items():
                    key = _key("llm", input_kind, of)
                    found.outcomes[key] = self._outcome(rows.of(states), rows.tokens, key, found.item)
                    if key in self._kept:
                        if input_kind == "text":  # one BOS is enough, and the image's rows bring it
                            rows = self._counted(sequences["text"], bos=False)
                        found.rows[key] = rows.of(states), rows.tokens
                if first is not None and found is batch[first]:
                    prefixes.append(states[: len(sequences["image"])].clone())

        with ExitStack() as hooks:
            llm = {"llm": self.adapter.points["llm"]}
            hooks.enter_context(capture(self.adapter.model, llm, reduce=reduce, calls=None))
            for name, point in self._layers.items() if kind == "pair" else ():
                at_layer = self._each_pair(name, of, batch, [rows["pair"] for rows in counted])
                hooks.enter_context(capture(self.adapter.model, {name: point}, reduce=at_layer, calls=None))
            self.adapter.decode([sequences[kind] for sequences in read], images)
        if next(waiting, None) is not None:
            raise CaptureError(f"{self.adapter.name}: its `decode` ran fewer sequences than it was given")
        for found, sequences in zip(batch, read, strict=True):
            found.tokens += len(sequences[kind])
        return prefixes[0] if prefixes else None

    def _each_pair(
        self, point: str, of: Variant, batch: Sequence[_Found], counted: Sequence[_Rows]
    ) -> Callable[[Tensor], None]:
        key = _key(point, "pair", of)
        waiting = iter(zip(batch, counted, strict=True))

        def reduce(h: Tensor) -> None:
            for states, (found, rows) in zip(h, waiting, strict=False):
                found.outcomes[key] = self._outcome(rows.of(states), rows.tokens, key, found.item)

        return reduce

    def _counted(self, sequence: TokenSequence, *, bos: bool = True) -> _Rows:
        """The rows that enter the covariance, without BOS if so asked."""
        counted = set(Role) if self.convention.tokens == "all" else {Role.IMAGE, Role.TEXT}
        if not bos:
            counted.discard(Role.BOS)
        kept = [i for i, role in enumerate(sequence.roles) if role in counted]
        return _Rows(kept, sequence.at(kept))

    def _outcome(self, h: Tensor, rows: TokenSequence, key: _Key, item: Prepared) -> Future[Record | NoSpectrum]:
        point, kind, image, text, _ = key
        measurement = Measurement(
            h,
            model=self.adapter.name,
            example=item.example.id,
            point=point,
            input_kind=kind,
            centre=self.convention.centre,
            precision=self.convention.precision,
            fingerprint=self._fingerprint,
            text_cut=0 if text is None else item.readings[image or ORIGINAL, text].text_cut,
            study=self._study(rows, point, kind),
            metrics=self._metrics(rows, key),
        )
        return self._workers.submit(measurement.outcome)

    def _study(self, rows: TokenSequence, point: str, kind: str) -> RowStudy | None:
        """What else is asked of the rows; of a layer's only their eRanks by role, which the last one has, too."""
        by_role = bool(self._layers) and kind == "pair"
        asked = Convention() if point in self._layers else self.convention
        keep_mean = self._keep_means and point not in self._layers
        if not (by_role or keep_mean or asked.studies_rows):
            return None
        return RowStudy(asked, rows, self.adapter.tokenizer.decode, by_role, keep_mean)

    def _metrics(self, rows: TokenSequence, key: _Key) -> Metrics | None:
        """The metrics of the rows; none of what is measured for a null alone."""
        if not self.convention.metrics or key not in self._with_metrics:
            return None
        return Metrics(self.convention, rows.roles if key[1] == "pair" else None)

    def _result(self, found: _Found) -> Measured | Skipped:
        """The records of an example, or why one of them is missing."""
        records = []
        for variant in self.variants:
            where = "" if variant == BASE else f"{variant.name}: "
            if error := found.unreadable.get(variant.image):
                return _unreadable(found.item.example, error, where)
            for point, kind in self._measured if variant.read == "all" else [ERANKS["erank5"]]:
                outcome = found.outcomes[_key(point, kind, variant)].result()
                if isinstance(outcome, NoSpectrum):
                    return no_spectrum(found.item.id, outcome, where)
                records.append(replace(outcome, transform=variant.name, **found.content._asdict()))
        return Measured(found.item.example.id, tuple(records), found.tokens)

    def _may_share(self, sequences: Mapping[Kind, TokenSequence]) -> bool:
        """Whether the image input is a prefix of the pair input, and the LLM is said to be causal."""
        return self.share_prefix and self.adapter.causal and sequences["pair"].starts_with(sequences["image"])

    def _prefix_holds(self, alone_in: TokenSequence, image: Encoded, prefix: Tensor) -> bool:
        """Compare the prefix read from the first pair pass with a pass of its own; done once."""
        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}) as seen:
            self.adapter.decode([alone_in], [image])
        alone = seen["llm"][0].double()
        difference = float((alone - prefix.double()).norm() / alone.norm())
        if not math.isfinite(difference):
            return False  # this example is skipped, and another one tells
        self._prefix_verified = difference <= PREFIX_TOLERANCE[prefix.dtype]
        if not self._prefix_verified:
            self.share_prefix = False
            warnings.warn(
                f"{self.adapter.name}: the LLM's hidden states of the image depend on the text behind it (relative "
                f"difference {difference:.1e}), so the image input gets a pass of its own",
                stacklevel=2,
            )
        return self._prefix_verified


def _unreadable(example: Example, error: DataError, where: str = "") -> Skipped:
    suspect: Literal["source", "transform"] | None = "source" if isinstance(error, SourceError) else None
    if isinstance(error, TransformFailed):
        suspect = "transform"
    return Skipped(example.id, f"{where}{error}", suspect=suspect)


def _key(point: str, kind: str, variant: Variant) -> _Key:
    """What a measurement of a variant depends on, so that variants share what they have in common."""
    image = None if kind == "text" else variant.image
    text = None if kind == "image" else variant.text
    return point, kind, image, text, kind == "pair" and variant.read == "stacked"
