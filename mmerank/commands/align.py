"""`mmerank align`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmerank.analysis.steps import by_step
from mmerank.commands import measured, options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import Beside, Choices, DataColumns, Keeping, PairLoading, convention
from mmerank.commands.results import check_writable, given_names, quiet, show_results, shown_at_the_end
from mmerank.trackers import check_tracker

if TYPE_CHECKING:
    from mmerank.jobs.align import Alignment


def align(
    models: options.Models,
    data: options.Data,
    *,
    columns: DataColumns,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    track: options.Track = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    computing: PairLoading,
    beside: Beside,
    layers: measured.PairLayers = "",
    inside: measured.PairInside = "",
    patches: measured.Patches = False,
    clip: measured.Clip = None,
    choices: Choices,
) -> None:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment (the paper's Table 2)."""
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.models.encoders.named import check_clip
    from mmerank.models.located import MULTIMODAL

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    if track is not None:
        check_tracker(track)
    stated = replace(convention(choices, beside), patches=patches)
    if clip is not None:
        check_clip(clip)
    columns.check(data)
    check_models(MULTIMODAL, models, computing, layers=layers, inside=inside)
    examples = columns.load(data)
    check_usable(examples, pictures=True)
    check_on_hub(MULTIMODAL, models)

    from mmerank.jobs.align import align as measure
    from mmerank.jobs.align import open_align_run
    from mmerank.models.adapter import check_model, load
    from mmerank.report.terminal.alignment import alignment_notes, alignment_tables

    folder = None
    if keeping.out is not None:
        folder = open_align_run(
            keeping.out,
            examples,
            stated,
            layers=layers,
            inside=inside,
            max_pixels=computing.max_pixels,
            selection=selection,
        )
    quiet()
    models = by_step(models)
    for model in models:  # a typo in the last one must not cost the time of the first
        check_model(model)
    results: list[Alignment] = []

    def show() -> None:
        show_results(results, folder, keeping.json_file, tables=alignment_tables, notes=alignment_notes, track=track)

    with shown_at_the_end(show, keeping.out):
        for model in models:
            found = measure(
                load(model, **computing.how),
                examples,
                convention=stated,
                limit=limit,
                seed=seed,
                batch_tokens=computing.batch_tokens,
                share_prefix=not computing.separate_passes,
                max_pixels=computing.max_pixels,
                strict=keeping.strict,
                out=folder,
                progress=True,
                clip=clip,
                layers=layers,
                inside=inside,
            )
            results.append(replace(found, name=names.get(model, "")))
