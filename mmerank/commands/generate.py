"""`mmerank generate`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmerank.commands import measured, options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import DataColumns, Keeping, Loading, stated
from mmerank.commands.results import check_writable, given_names, quiet, show_results, shown_at_the_end
from mmerank.convention import GenerationConvention
from mmerank.trackers import check_tracker

if TYPE_CHECKING:
    from mmerank.jobs.generate import Generation


def generate(
    models: options.Models,
    data: options.Data,
    *,
    columns: DataColumns,
    text_only: measured.TextOnly = False,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    track: options.Track = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    computing: Loading,
    max_megapixels: options.MaxMegapixels = 100,
    max_new_tokens: measured.MaxNewTokens = 128,
    stride: measured.Stride = 8,
    sampling: measured.Sampling = "greedy",
    temperature: measured.Temperature = 1.0,
    top_p: measured.TopP = 1.0,
    sampling_seed: measured.SamplingSeed = 0,
    sequence: measured.PromptSequence = "template",
    centre: measured.Centre = "mean",
    precision: measured.Precision = "float64",
    aggregate: measured.Aggregate = "entropy",
) -> None:
    """While a model writes: eRank of prompt and response, as it grows, and entropy of the logits."""
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.models.located import LANGUAGE, MULTIMODAL

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    if track is not None:
        check_tracker(track)
    convention = stated(
        GenerationConvention,
        sequence=sequence,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        temperature=temperature,
        top_p=top_p,
        sampling_seed=sampling_seed,
        stride=stride,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
    )
    columns.check(data)
    group = LANGUAGE if text_only else MULTIMODAL
    check_models(group, models, computing)
    examples = columns.load(data)
    check_usable(examples, pictures=not text_only)
    check_on_hub(group, models)

    from mmerank.jobs.alone import open_alone
    from mmerank.jobs.generate import generate as measure
    from mmerank.models.adapter import check_model, load
    from mmerank.models.loading import check_text_model, load_text
    from mmerank.report.terminal.generation import generation_notes, generation_tables

    max_pixels = int(max_megapixels * 1e6)
    folder = None
    if keeping.out is not None:
        folder = open_alone("generate", keeping.out, examples, convention, max_pixels=max_pixels, selection=selection)
    quiet()
    for model in models:  # a typo in the last one must not cost the time of the first
        if text_only:
            check_text_model(model)
        else:
            check_model(model)
    results: list[Generation] = []

    def show() -> None:
        show_results(
            results, folder, keeping.json_file, tables=generation_tables, notes=generation_notes, track=track
        )

    with shown_at_the_end(show, keeping.out):
        for model in models:
            found = measure(
                load_text(model, **computing.how) if text_only else load(model, **computing.how),
                examples,
                convention=convention,
                limit=limit,
                seed=seed,
                max_pixels=max_pixels,
                strict=keeping.strict,
                out=folder,
                progress=True,
            )
            results.append(replace(found, name=names.get(model, "")))
