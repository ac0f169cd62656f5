"""`mmerank encode`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmerank.commands import measured, options
from mmerank.commands.groups import DataColumns, Keeping
from mmerank.commands.results import check_writable, given_names, quiet, show_results, shown_at_the_end
from mmerank.convention import EncoderConvention

if TYPE_CHECKING:
    from mmerank.jobs.encode import Encoding


def encode(
    models: options.Encoders,
    data: options.Data,
    *,
    columns: DataColumns,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    layers: measured.EncoderLayers = "all",
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_tokens: measured.EncoderBatchTokens = None,
    max_megapixels: options.MaxMegapixels = 100,
    untrained_seed: measured.UntrainedSeed = 0,
    centre: measured.Centre = "mean",
    precision: measured.Precision = "float64",
    aggregate: measured.Aggregate = "entropy",
) -> None:
    """Encoders alone: eRank by layer, and of embeddings; modality gap, retrieval; beside an untrained twin."""
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.models.encoders.named import check_encoder_named
    from mmerank.models.located import check_device, check_dtype, check_layers

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    columns.check(data)
    check_dtype(dtype)
    check_device(device)
    check_layers(layers)
    stated = EncoderConvention(centre=centre, precision=precision, aggregate=aggregate)
    for model in models:
        check_encoder_named(model, ask_hub=False)
    examples = columns.load(data)
    check_usable(examples, pictures=True)
    for model in models:
        check_encoder_named(model)

    from mmerank.jobs.encode import encode as measure
    from mmerank.jobs.encode import open_encode_run
    from mmerank.models.encoders.loading import check_encoder, load_encoder
    from mmerank.report.terminal.encoding import encoding_notes, encoding_tables

    max_pixels = int(max_megapixels * 1e6)
    folder = None
    if keeping.out is not None:
        folder = open_encode_run(
            keeping.out,
            examples,
            stated,
            layers=layers,
            untrained_seed=untrained_seed,
            max_pixels=max_pixels,
            selection=selection,
        )
    quiet()
    for model in models:  # a typo in the last one must not cost the time of the first
        check_encoder(model)
    results: list[Encoding] = []

    def show() -> None:
        show_results(results, folder, keeping.json_file, tables=encoding_tables, notes=encoding_notes)

    with shown_at_the_end(show, keeping.out):
        for model in models:
            found = measure(
                load_encoder(model, dtype=dtype, device=device),
                examples,
                convention=stated,
                layers=layers,
                untrained_seed=untrained_seed,
                limit=limit,
                seed=seed,
                batch_tokens=batch_tokens,
                max_pixels=max_pixels,
                strict=keeping.strict,
                out=folder,
                progress=True,
            )
            results.append(replace(found, name=names.get(model, "")))
