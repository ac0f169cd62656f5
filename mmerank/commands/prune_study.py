"""`mmerank prune-study`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmerank.commands import measured, options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import DataColumns, Keeping, Loading, listed, stated
from mmerank.commands.results import check_writable, given_names, quiet, show_results, shown_at_the_end
from mmerank.convention import PruneConvention
from mmerank.trackers import check_tracker

if TYPE_CHECKING:
    from mmerank.jobs.prune_study import Pruning


def prune_study(
    models: options.Models,
    data: options.Data,
    *,
    columns: DataColumns,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    track: options.Track = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    computing: Loading,
    max_megapixels: options.MaxMegapixels = 100,
    keep: measured.Keep = "0.5,0.25,0.1",
    by: measured.KeptBy = "random,downsample,norm,attention,diversity",
    draws: measured.Draws = 5,
    draw_seed: measured.DrawSeed = 0,
    attention_layer: measured.AttentionLayer = 2,
    neighbours: measured.Neighbours = 10,
    sequence: measured.Sequence = "bare",
    image_layout: measured.ImageLayout = "model",
    vision_point: measured.VisionPoint = "default",
    centre: measured.Centre = "mean",
    precision: measured.Precision = "float64",
    aggregate: measured.Aggregate = "entropy",
) -> None:
    """Rows of the picture left out before the LLM: loss of the text, eRank of the others, by how they are chosen."""
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.models.located import MULTIMODAL
    from mmerank.states.choosers import with_functions

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    if track is not None:
        check_tracker(track)

    convention, _ = with_functions(
        stated(
            PruneConvention,
            sequence=sequence,
            image_layout=image_layout,
            vision_point=vision_point,
            keep=measured.shares(keep),
            by=tuple(listed(by)),
            draws=draws,
            draw_seed=draw_seed,
            attention_layer=attention_layer,
            neighbours=neighbours,
            centre=centre,
            precision=precision,
            aggregate=aggregate,
        )
    )
    columns.check(data)
    check_models(MULTIMODAL, models, computing)
    examples = columns.load(data)
    check_usable(examples, pictures=True)
    check_on_hub(MULTIMODAL, models)

    from mmerank.jobs.alone import open_alone
    from mmerank.jobs.prune_study import prune_study as measure
    from mmerank.models.adapter import check_model, load
    from mmerank.report.terminal.pruning import pruning_notes, pruning_tables

    max_pixels = int(max_megapixels * 1e6)
    folder = None
    if keeping.out is not None:
        folder = open_alone(
            "prune-study", keeping.out, examples, convention, max_pixels=max_pixels, selection=selection
        )
    quiet()
    for model in models:  # a typo in the last one must not cost the time of the first
        check_model(model)
    results: list[Pruning] = []

    def show() -> None:
        show_results(results, folder, keeping.json_file, tables=pruning_tables, notes=pruning_notes, track=track)

    with shown_at_the_end(show, keeping.out):
        for model in models:
            found = measure(
                load(model, **computing.how),
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
