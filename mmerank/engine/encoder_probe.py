"""Encoder x examples -> records: eRank of a picture's patches and a text's tokens by layer, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmerank.convention import EncoderConvention
from mmerank.engine.batches import Budget, default_budget
from mmerank.engine.collect import Measured, in_batches
from mmerank.engine.measurement import Measurement, measurement_fingerprint, no_spectrum
from mmerank.engine.workers import Workers, default_workers
from mmerank.errors import DataError, NoSpectrum, SourceError, UsageError
from mmerank.inputs.contents import Content, content_of, picture_stamp
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, open_picture
from mmerank.models.encoders.encoder import Encoder, Features, ReadText, Side
from mmerank.models.identity import identity
from mmerank.models.layers import encoder_layers
from mmerank.models.sequences import SpecialTokens
from mmerank.models.wrapped import evaluated
from mmerank.runs.record import Record
from mmerank.transfer import Arriving, for_each_tensor, sent


@dataclass(frozen=True)
class _Prepared:
    """An example with what the text encoder reads of it; None where there is no text encoder."""

    example: Example
    read: ReadText | None

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id


@dataclass(frozen=True)
class _Loaded:
    """The same with its picture."""

    item: _Prepared
    pixels: Any
    content: Content


@dataclass
class EncoderProbe:
    """Measures examples with one encoder.

    Attributes:
        encoder: The model.
        name: What the records call it.
        convention: The choices in force.
        layers: Which of each side, see `mmerank.models.layers.encoder_layers`.
        max_pixels: Pictures with more are skipped.
        batch_tokens: Most patches and tokens in a batch. Default: one example a batch on a CPU, 8192 elsewhere, fewer
            with many layers.
        workers: Threads that open pictures and compute eigenvalues beside the model. Default: none on a CPU, and
            elsewhere one for each core but one.
        source: What the model is known by. Default: its `mmerank.models.identity`, taken now.

    Raises:
        UsageError: No such layer.
    """

    encoder: Encoder
    name: str
    convention: EncoderConvention = field(default_factory=EncoderConvention)
    layers: str = "all"
    max_pixels: int = MAX_PIXELS
    batch_tokens: int | None = None
    workers: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.chosen: dict[Side, list[int]] = {
                side: encoder_layers(there, self.layers) for side, there in self.encoder.layers.items()
            }
        except ValueError as error:
            raise UsageError(f"{self.encoder.name}: {error}") from None
        self._device = next(self.encoder.model.parameters()).device
        if self.batch_tokens is None:
            self.batch_tokens = default_budget(self._device, sum(map(len, self.chosen.values())))
        self._budget = Budget(self.batch_tokens)
        self._workers = Workers(default_workers(self._device) if self.workers is None else self.workers)
        self.source = self.source or identity(self.encoder)
        self._fingerprint = measurement_fingerprint(self.source, self.convention)
        self._special_tokens = SpecialTokens(getattr(self.encoder, "tokenizer", None))
        self._patches = 1  # of a picture, known from the first

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each example, in the order in which batches finish.

        Args:
            examples: Any number; of an encoder of pictures alone, texts are not looked at.

        Yields:
            One result for each of `examples`; in `records` one per side and layer, the last with the embedding.
        """
        with evaluated(self.encoder.model), self._workers:
            yield from in_batches(
                examples,
                prepare=self._prepare,
                length=lambda item: self._patches + (len(item.read.ids) if item.read else 0),
                load=self._load,
                start=self._start,
                budget=self._budget,
                workers=self._workers,
            )

    def _prepare(self, example: Example) -> _Prepared | Skipped:
        if example.image is None:
            return Skipped(example.id, "no image")
        if "text" not in self.chosen:
            return _Prepared(example, None)
        if not example.response.strip():
            return Skipped(example.id, "the response, which is what a text encoder reads, is empty")
        self._special_tokens.look_at(example.id, example.response)
        read = self.encoder.tokens(example.response)
        if len(read.ids) < 2:
            return Skipped(example.id, f"{len(read.ids)} tokens; at least 2 are needed")
        return _Prepared(example, read)

    def _load(self, item: _Prepared) -> _Loaded | Skipped:
        example = item.example
        assert example.image is not None  # _prepare saw to it
        try:
            stamp = picture_stamp(example.image)  # before: what is written meanwhile is looked at again
            picture = open_picture(example.image, max_pixels=self.max_pixels)
            pixels = self.encoder.pixels(picture)
        except DataError as error:
            return Skipped(item.id, str(error), suspect="source" if isinstance(error, SourceError) else None)
        if self._device.type == "cuda":
            pixels = for_each_tensor(pixels, Tensor.pin_memory)
        return _Loaded(item, pixels, content_of(example, picture, stamp))

    @torch.inference_mode()
    def _start(self, batch: list[_Loaded]) -> Callable[[], Iterable[Measured | Skipped]]:
        on_device = [for_each_tensor(of.pixels, partial(sent, device=self._device)) for of in batch]
        features: dict[Side, Features] = {"image": self.encoder.images(on_device)}
        if "text" in self.chosen:
            features["text"] = self.encoder.texts([of.item.read for of in batch if of.item.read])
        embeddings = Arriving(*(of.embeddings.float() for of in features.values()))
        asked = [
            {
                (side, layer): self._asked(of.layers[i][layer], loaded.item, side, layer)
                for side, of in features.items()
                for layer in self.chosen[side]
            }
            for i, loaded in enumerate(batch)
        ]
        self._patches = max(len(features["image"].layers[0][layer]) for layer in self.chosen["image"])
        return partial(self._results, batch, asked, list(features), embeddings)

    def _asked(self, h: Tensor, item: _Prepared, side: Side, layer: int) -> Future[Record | NoSpectrum]:
        measurement = Measurement(
            h,
            model=self.name,
            example=item.id,
            point=f"layer {layer}",
            input_kind=side,
            centre=self.convention.centre,
            precision=self.convention.precision,
            fingerprint=self._fingerprint,
            text_cut=item.read.cut if side == "text" and item.read else 0,
        )
        return self._workers.submit(measurement.outcome)

    def _results(
        self,
        batch: Sequence[_Loaded],
        asked: Sequence[Mapping[tuple[Side, int], Future[Record | NoSpectrum]]],
        sides: Sequence[Side],
        embeddings: Arriving,
    ) -> Iterator[Measured | Skipped]:
        vectors = dict(zip(sides, (of.numpy() for of in embeddings.wait()), strict=True))
        for i, (loaded, futures) in enumerate(zip(batch, asked, strict=True)):
            outcomes = {where: future.result() for where, future in futures.items()}
            bad = next((of for of in outcomes.values() if isinstance(of, NoSpectrum)), None)
            if bad is not None:
                yield no_spectrum(loaded.item.id, bad)
                continue
            if side := next((side for side in sides if not _directed(vectors[side][i])), None):
                yield Skipped(loaded.item.id, f"its {side} embedding is zero or not finite", suspect="model")
                continue
            records = []
            for (side, layer), outcome in outcomes.items():
                assert isinstance(outcome, Record)
                last = layer == self.chosen[side][-1]
                embedding = {"embedding": vectors[side][i].copy()} if last else {}
                records.append(replace(outcome, **loaded.content._asdict(), **embedding))
            read = loaded.item.read
            yield Measured(loaded.item.id, tuple(records), self._patches + (len(read.ids) if read else 0))


def _directed(vector: Any) -> bool:
    return bool(np.isfinite(vector).all() and vector.any())
