"""Encoders alone: what they make of pictures and texts, beside their untrained twins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.embeddings import EMBEDDINGS
from mmerank.analysis.metrics.retrieval import RETRIEVAL
from mmerank.analysis.results.encoding import EncodingResult
from mmerank.computing import Computing
from mmerank.convention import EncoderConvention
from mmerank.engine.collect import collect
from mmerank.engine.plans.encoders import Encoders, Loaded, Prepared
from mmerank.engine.probe import Probe
from mmerank.inputs.example import Example, Skipped, check_examples, kept, name_of
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.selection import ALL, Selection
from mmerank.jobs.shown import Result, as_run
from mmerank.jobs.twins import Measure, built_when_needed, full_twin_name, measured_examples, twin_source
from mmerank.models.encoders.encoder import Encoder, check_is_encoder
from mmerank.models.identity import identity
from mmerank.runs.folder import RunFolder, open_run
from mmerank.runs.record import Record


class Encoding(Result, EncodingResult):
    """What an encoder and its untrained twin make of a data set, and what that stands on."""

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("encode", self, self.records)]

    def _in_short(self) -> dict[str, Any]:
        names = RETRIEVAL if "text" not in self.undefined else EMBEDDINGS[:1]
        numbers = {name: round(self.numbers[name].value, 4) for name in names}
        return {"model": self.name or self.model, "data": self.data, "n": self.n, **numbers}

    def __str__(self) -> str:
        from mmerank.report.terminal.encoding import encoding_text

        return encoding_text([self])


def encode(
    encoder: Encoder,
    examples: Iterable[Example | Skipped],
    *,
    convention: EncoderConvention | None = None,
    layers: str = "all",
    untrained_seed: int = 0,
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
) -> Encoding:
    """The eRank by layer of a picture's patches and a text's tokens, and what the embeddings of a data set are like.

    Of the embeddings, scaled to unit length: eRank of those of the images, of the texts and of both, modality gap,
    cosine of matched pairs, and retrieval of the partner. The text of an example is its response.

    Args:
        encoder: From `mmerank.load_encoder`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`.
        convention: The choices in force.
        layers: Which of them: `all`, `first`, `middle`, `last` and numbers from 1 on, joined by commas; the last one
            is always among them.
        untrained_seed: Of the weights of the untrained twin that everything is measured with, too.
        limit: Use this many of the examples: the first ones, or with `seed` a random sample.
        seed: Of the sample.
        batch_tokens: Most patches and tokens in a batch. Default: one example a batch on a CPU, 8192 elsewhere, fewer
            with many layers.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first example that cannot be measured, in place of skipping it.
        out: A run folder; when it exists, only what it lacks is measured.
        progress: Show progress bars on stderr.

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `encoder` is not a loaded encoder, or `examples` no iterable of examples.
        UsageError: No such layer; `limit` is below 1, or there is a seed without a limit.
    """
    convention = convention or EncoderConvention()
    computing = Computing(batch_tokens=batch_tokens, strict=strict, progress=progress)
    check_is_encoder(encoder)
    check_examples(examples)
    examples = kept(examples)
    name = name_of(examples)
    selection = Selection(limit, seed)
    entries = selection.held(examples)
    known = identity(encoder)
    settings: dict[str, Any] = {"layers": layers, "untrained_seed": untrained_seed, "max_pixels": max_pixels}

    def probe(model: Encoder, called: str, source: Mapping[str, Any]) -> Probe[Prepared, Loaded]:
        return Probe(Encoders(model, convention, layers, max_pixels), computing, called, source)

    trained = probe(encoder, encoder.name, known)
    own_folder = out is not None and not isinstance(out, RunFolder)
    if out is not None and not isinstance(out, RunFolder):
        out = open_encode_run(out, examples, convention, selection=selection, **settings)
    folder = out

    def collected(
        measure: Measure, some: Sequence[Example | Skipped], called: str, source: dict[str, Any]
    ) -> tuple[list[Record], list[Skipped]]:
        if folder is not None:
            folder.add_model(called, source)
        return collect(measure, some, model=called, job="encode", folder=folder, computing=computing)

    records, skipped = collected(trained.measure, entries, encoder.name, known)
    source = twin_source(known, untrained_seed)
    called = full_twin_name(untrained_seed, source)
    measure = built_when_needed(encoder, untrained_seed, partial(probe, called=called, source=source))
    twins, left = collected(measure, measured_examples(entries, records), called, source)
    # What the twin could not measure is left out of both.
    common = {record.example for record in twins}
    result = Encoding.of(
        [record for record in (*records, *twins) if record.example in common],
        [*skipped, *left],
        model=encoder.name,
        data=name,
        convention=convention,
        source=known,
        undefined=encoder.undefined,
        untrained_seed=untrained_seed,
        selection=selection,
    )
    if folder is not None and own_folder:
        folder.write_summary({"results": [result.to_dict()]})
    return result


def open_encode_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    convention: EncoderConvention,
    *,
    layers: str,
    untrained_seed: int,
    max_pixels: int,
    selection: Selection = ALL,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `encode`."""
    settings = {
        "convention": convention.to_dict(),
        "layers": layers,
        "untrained_seed": untrained_seed,
        "max_pixels": max_pixels,
    }
    return open_run(out, "encode", examples, settings, selection=selection)
