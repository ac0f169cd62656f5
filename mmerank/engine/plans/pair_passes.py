"""The passes of one batch of pairs: vision encoder and connector by picture, the LLM by what it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import MATCH_MARGIN
from mmerank.engine.plans.loss import READS_BEHIND
from mmerank.engine.plans.margin import Losses
from mmerank.engine.plans.needs import Needs
from mmerank.engine.plans.passes import Key, key
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.plans.prefix import Prefix
from mmerank.engine.plans.reading import Prepared
from mmerank.engine.plans.rows import Rows
from mmerank.eranks import ERANKS
from mmerank.errors import CaptureError, DataError, ModelError
from mmerank.inputs.contents import Content
from mmerank.inputs.sequence import Kind, TokenSequence, image_places
from mmerank.inputs.variants import ORIGINAL, Variant, Version
from mmerank.models.encoded import Encoded, Spans
from mmerank.models.hooks import capture
from mmerank.models.places import Floats, Places
from mmerank.models.tower import Tower
from mmerank.states.reductions import UpdateStudy
from mmerank.transfer import Arriving, for_each_tensor, sent


@dataclass
class Loaded:
    """What the model is fed for an example, and what has been measured of it so far."""

    item: Prepared
    content: Content
    pixels: dict[Version, Any]
    unreadable: dict[Version, DataError]  # in the place of which `pixels` has the example's own
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    rows: dict[Key, tuple[Tensor, TokenSequence]] = field(default_factory=dict)  # stacked when the batch is through
    tokens: int = 0
    filled: dict[Version, Sequence[bool]] = field(default_factory=dict)  # of a picture's places, where not all
    spans: dict[Version, Spans] = field(default_factory=dict)  # of several pictures
    losses: dict[tuple[Version, Version], Arriving | None] = field(default_factory=dict)  # by picture and text
    size: tuple[int, int] | None = None  # of the picture, in pixels; None of several
    places: Places | None = None  # of the rows of the example's own picture, where patches are asked for

    def read(self, image: Version, text: Version) -> dict[Kind, TokenSequence]:
        """What the LLM reads, by kind of input."""
        sequences = self.item.reading(image, text).sequences
        if (filled := self.filled.get(image)) is None:
            return sequences
        return {kind: sequence.with_places(filled) for kind, sequence in sequences.items()}


@dataclass(frozen=True)
class PairPasses:
    """The passes of a batch, which fill `outcomes` and `tokens` of what was loaded."""

    needs: Needs
    prefix: Prefix
    batch: Sequence[Loaded]
    ask: Ask

    def run(self) -> None:
        """Run them all, each once."""
        passes = self.needs.passes
        if self.needs.convention.patches:
            for loaded in self.batch:  # before the passes, in which other pictures must not be read
                unknown = Places.unknown("where the rows of several pictures lie is not looked for")
                loaded.places = self.needs.whereabouts.of(loaded.size) if loaded.size else unknown
        for text in passes.alone:
            self._decode(self.batch, "text", text=text)
        for image, (first, *others) in passes.pairs.items():
            images = self._encode(image, layers=True)
            self._decode_with_image(image, first, images)
            self._read_images(image, images)  # behind the pair pass, since some connectors read the text
            for text in others:
                self._decode(self.batch, "pair", text=text, image=image, images=images)
        for other in passes.others:
            images = self._encode(other)
            for text in passes.predicted:
                self._predict(other, text, images)
        for variant in passes.stacked:
            of = key("llm", "pair", variant)
            for loaded in self.batch:
                (h_image, image_rows), (h_text, text_rows) = (
                    loaded.rows[key("llm", kind, variant)] for kind in ("image", "text")
                )
                self._ask(torch.cat([h_image, h_text]), image_rows + text_rows, of, loaded)
        for loaded in self.batch:
            loaded.rows.clear()

    def _encode(self, image: Version, *, layers: bool = False) -> list[Encoded]:
        """The rows of a version of the pictures; its layers are measured, too, if that is asked for."""
        each = [loaded.pixels[image] for loaded in self.batch]
        device = next(self.needs.adapter.model.parameters()).device
        if device.type == "cuda":
            each = [for_each_tensor(pixels, lambda tensor: sent(tensor, device)) for pixels in each]
        if layers and self.needs.tower:
            images = [
                self._through(self.needs.tower, pixels, image, loaded)
                for pixels, loaded in zip(each, self.batch, strict=True)
            ]
        else:
            images = self.needs.adapter.encode_images(each, self.needs.convention.vision_point)
        for loaded, of in zip(self.batch, images, strict=True):
            if of.filled is not None:
                loaded.filled[image] = of.filled
            if isinstance(of.spans, Spans):
                loaded.spans[image] = of.spans
            elif of.spans is not None:
                loaded.unreadable.setdefault(image, DataError(of.spans))
        return images

    def _through(self, tower: Tower, pixels: Any, image: Version, loaded: Loaded) -> Encoded:
        """One example's pictures, one after the other's, so that it is known whose rows a block has."""
        try:
            encoded, layers = tower.read(pixels)
        except DataError as error:
            loaded.unreadable.setdefault(image, error)
            (encoded,) = self.needs.adapter.encode_images([pixels], self.needs.convention.vision_point)
            return encoded
        for point, place in self.needs.in_tower.items():
            h = layers[place]
            self._ask(h, image_places(len(h)), key(point, "image", Variant("", image)), loaded)
        return encoded

    def _read_images(self, image: Version, images: Sequence[Encoded]) -> None:
        for point in ("vision", "connector"):
            of = key(point, "image", Variant("", image))
            for loaded, encoded in zip(self.batch, images, strict=True):
                h = getattr(encoded, point)
                behind = len(encoded.connector) if point == "vision" else None
                self._ask(h, image_places(len(h)), of, loaded, behind)

    def _decode_with_image(self, image: Version, text: Version, images: list[Encoded]) -> None:
        """The pair pass, and the image input from its prefix, or by a pass of its own."""
        wanted = ERANKS["erank3"] in self.needs.measured
        shared = [wanted and self.prefix.may_be_read(loaded.read(image, text)) for loaded in self.batch]
        prefix = self._decode(self.batch, "pair", text=text, image=image, images=images, also_image=shared)
        if prefix is not None:
            first = shared.index(True)
            alone_in = self.batch[first].read(image, text)["image"]
            if not self.prefix.holds(alone_in, images[first], prefix):
                shared = [False] * len(self.batch)
            if self.prefix.refuted and self.needs.others:
                raise ModelError(f"metric {MATCH_MARGIN!r}: {self.needs.adapter.name}: {READS_BEHIND}")
        own = [i for i, is_shared in enumerate(shared) if wanted and not is_shared]
        if own:
            some = [images[i] for i in own]
            self._decode([self.batch[i] for i in own], "image", text=text, image=image, images=some)

    def _decode(
        self,
        batch: Sequence[Loaded],
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
        adapter, variant = self.needs.adapter, Variant("", image, text)
        read = [loaded.read(image, text) for loaded in batch]
        kinds: list[list[Kind]] = [[kind] for _ in batch]
        for i, is_shared in enumerate(also_image):
            if is_shared:
                kinds[i].append("image")
        # Once for all layers, and before the pass, not in its hooks.
        counted = [
            {of: Rows.counted(sequences[of], self.needs.convention.tokens) for of in inputs}
            for sequences, inputs in zip(read, kinds, strict=True)
        ]
        prefixes: list[Tensor] = []
        waiting = iter(zip(batch, read, counted, strict=True))
        first = list(also_image).index(True) if any(also_image) and not self.prefix.verified else None

        def reduce(h: Tensor) -> None:
            for states, (loaded, sequences, inputs) in zip(h, waiting, strict=False):
                for input_kind, rows in inputs.items():
                    of = key("llm", input_kind, variant)
                    self._ask(rows.of(states), rows.tokens, of, loaded)
                    if of in self.needs.passes.kept:
                        if input_kind == "text":  # one BOS is enough, and the image's rows bring it
                            rows = Rows.counted(sequences["text"], self.needs.convention.tokens, bos=False)
                        loaded.rows[of] = rows.of(states), rows.tokens
                if first is not None and loaded is batch[first]:
                    prefixes.append(states[: len(sequences["image"])].clone())

        if self.needs.blocks and kind == "pair":
            self.needs.blocks.look(lambda: adapter.decode([read[0]["pair"]], None if images is None else images[:1]))
        losses = self._losses(batch, [sequences["pair"] for sequences in read], text) if kind == "pair" else None
        with ExitStack() as hooks:
            if losses is not None:
                hooks.enter_context(losses.reading())
            llm = {"llm": adapter.points["llm"]}
            hooks.enter_context(capture(adapter.model, llm, reduce=reduce, calls=None))
            for name, point in self.needs.points.items() if kind == "pair" else ():
                at_layer = self._each_pair(key(name, "pair", variant), batch, [rows["pair"] for rows in counted])
                hooks.enter_context(capture(adapter.model, {name: point}, reduce=at_layer, calls=None))
            if self.needs.blocks and kind == "pair":
                hooks.enter_context(self._each_update(batch, [rows["pair"] for rows in counted], variant))
            adapter.decode([sequences[kind] for sequences in read], images)
        if next(waiting, None) is not None:
            raise CaptureError(f"{adapter.name}: its `decode` ran fewer sequences than it was given")
        for loaded, sequences in zip(batch, read, strict=True):
            loaded.tokens += len(sequences[kind])
        if losses is not None:
            self._keep(losses, batch, image, text)
        return prefixes[0] if prefixes else None

    def _predict(self, other: Version, text: Version, images: Sequence[Encoded]) -> None:
        """One pass of the LLM for the loss of the responses alone, beside other examples' pictures."""
        sequences = [loaded.read(other, text)["pair"] for loaded in self.batch]
        losses = self._losses(self.batch, sequences, text)
        assert losses is not None  # of a text that is predicted
        with losses.reading():
            self.needs.adapter.decode(sequences, images)
        for loaded, sequence in zip(self.batch, sequences, strict=True):
            loaded.tokens += len(sequence)
        self._keep(losses, self.batch, other, text)

    def _losses(self, batch: Sequence[Loaded], sequences: Sequence[TokenSequence], text: Version) -> Losses | None:
        """What reads the loss of the responses, of a text of which it is asked for."""
        if text not in self.needs.passes.predicted or self.needs.logits is None:
            return None
        told = [loaded.item.responses[text] for loaded in batch]
        places = [() if isinstance(of, str) else of for of in told]
        return Losses(self.needs.adapter, self.needs.logits, sequences, places)

    @staticmethod
    def _keep(losses: Losses, batch: Sequence[Loaded], image: Version, text: Version) -> None:
        for loaded, loss in zip(batch, losses.found(), strict=True):
            loaded.losses[image, text] = loss

    def _each_pair(self, of: Key, batch: Iterable[Loaded], counted: Iterable[Rows]) -> Callable[[Tensor], None]:
        """Asks for a layer's rows of each pair, however many of them come at a time."""
        waiting = iter(zip(batch, counted, strict=True))

        def reduce(h: Tensor) -> None:
            for states, (loaded, rows) in zip(h, waiting, strict=False):
                self._ask(rows.of(states), rows.tokens, of, loaded)

        return reduce

    def _each_update(
        self, batch: Sequence[Loaded], counted: Sequence[Rows], variant: Variant
    ) -> AbstractContextManager[None]:
        """Asks for what the blocks add in each pair."""

        def ask(i: int, point: str, h: Tensor, study: UpdateStudy) -> None:
            loaded = batch[i]
            cut = loaded.item.reading(variant.image, variant.text).text_cut
            loaded.outcomes[key(point, "pair", variant)] = self.ask(
                h, loaded.item.id, point, "pair", text_cut=cut, study=study
            )

        return self.needs.blocks.reading([(rows.of, rows.tokens.roles) for rows in counted], ask)

    def _ask(self, h: Tensor, rows: TokenSequence, of: Key, loaded: Loaded, behind: int | None = None) -> None:
        point, kind, image, text, _ = of
        spans = None if image is None else loaded.spans.get(image)
        loaded.outcomes[of] = self.ask(
            h,
            loaded.item.id,
            point,
            kind,
            text_cut=0 if text is None else loaded.item.reading(image or ORIGINAL, text).text_cut,
            study=self.needs.study(
                rows, point, kind, () if spans is None else spans.of(point, kind), _places(of, loaded)
            ),
            metrics=self.needs.metrics(rows, of, behind),
        )


def _places(of: Key, loaded: Loaded) -> Floats | str | None:
    """Where the image rows of a measurement lie; None where nobody asked what each row adds."""
    point, kind, image, text, stacked = of
    where = (point, kind) in {("vision", "image"), ("connector", "image"), ("llm", "pair")}
    if loaded.places is None or not where or stacked or {image, text} - {ORIGINAL, None}:
        return None
    found: Floats | str = getattr(loaded.places, point)
    filled = loaded.filled.get(ORIGINAL)
    return found if point != "llm" or isinstance(found, str) or filled is None else found[list(filled)]
