"""`mmerank diff`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmerank.analysis.steps import by_step
from mmerank.commands import measured, options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import DataColumns, Keeping, Loading, listed, metric_names, ranges, stated
from mmerank.commands.results import check_writable, given_names, quiet, show_results, shown_at_the_end
from mmerank.convention import TextConvention
from mmerank.errors import UsageError
from mmerank.processes import rank
from mmerank.trackers import check_tracker

if TYPE_CHECKING:
    from mmerank.jobs.diff import Diff


def diff(
    models: options.TextModels,
    data: options.TextData,
    *,
    columns: DataColumns,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    track: options.Track = None,
    everything: options.All = False,
    layers: measured.Layers = "",
    inside: measured.Inside = "",
    metrics: measured.TextMetrics = "",
    tokenizer: measured.Tokenizer = None,
    revisions: measured.Revisions = "",
    accuracy: measured.AccuracyTasks = "",
    accuracy_limit: measured.AccuracyLimit = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    computing: Loading,
    no_cache: measured.NoCache = False,
    no_loss: measured.NoLoss = False,
    untrained_mode: measured.UntrainedMode = "eval",
    untrained_seeds: measured.UntrainedSeeds = 1,
    init_ranges: measured.InitRanges = "",
    max_tokens: measured.MaxTokens = 2048,
    skip_first: measured.SkipFirst = 0,
    centre: measured.Centre = "mean",
    precision: measured.Precision = "float64",
    aggregate: measured.Aggregate = "entropy",
) -> None:
    """Diff-eRank, reduced loss and accuracy of language models (the paper's Tables 1, 4 and 6 to 11)."""
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.jobs.accuracy import ACCURACY, accuracies, check_tasks, fetch_questions
    from mmerank.models.located import LANGUAGE

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    if track is not None:
        check_tracker(track)
    if inside and untrained_mode == "train":
        raise UsageError("--inside and --untrained-mode train: with dropout on, what blocks add cannot be told")
    tasks, drawn_at = listed(accuracy), ranges(init_ranges)
    convention = stated(
        TextConvention,
        untrained_mode=untrained_mode,
        max_tokens=max_tokens,
        skip_first=skip_first,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
        metrics=metric_names(metrics, pictures=False),
    )
    check_tasks(tasks)
    columns.check(data)
    check_models(
        LANGUAGE, models, computing, revisions=listed(revisions), tokenizer=tokenizer, layers=layers, inside=inside
    )
    texts = columns.load(data)
    check_usable(texts, pictures=False)
    check_on_hub(LANGUAGE, models, listed(revisions))

    from mmerank.jobs.diff import diff as measure
    from mmerank.jobs.diff import open_diff_run
    from mmerank.models.loading import check_text_model, load_text
    from mmerank.report.terminal.diff import diff_notes, diff_tables
    from mmerank.report.terminal.summary import diff_summary, diff_summary_notes
    from mmerank.runs.cache import cache_folder

    folder = None
    if keeping.out is not None:
        folder = open_diff_run(
            keeping.out, texts, convention, layers=layers, inside=inside, selection=selection, loss=not no_loss
        )
    quiet()
    sweep = by_step(
        [(model, revision) for model in models for revision in listed(revisions) or (None,)],
        lambda one: "@".join(filter(None, one)),
    )
    for model, revision in sweep:  # a typo in the last one must not cost the time of the first
        check_text_model(model, revision)
    fetch_questions(tasks)
    results: list[Diff] = []

    def show() -> None:
        tables, notes = diff_tables, diff_notes
        if not everything:
            tables, notes = diff_summary, partial(diff_summary_notes, out=keeping.out)
        show_results(
            results,
            folder,
            keeping.json_file,
            tables=tables,
            notes=notes,
            track=track,
            compared_by=None if everything else ("diff_erank", "erank_ratio", "reduced_loss"),
        )

    with shown_at_the_end(show, keeping.out), ExitStack() as stack:
        # Kept for this command alone, so that the models of it share their untrained twins all the same.
        kept = None if no_cache else cache_folder()
        if kept is None:
            kept = Path(stack.enter_context(TemporaryDirectory(prefix="mmerank-")))
        for model, revision in sweep:
            adapter = load_text(model, tokenizer=tokenizer, revision=revision, **computing.how)
            of_model: list[Diff] = []  # one for each initialisation; the trained model is measured once
            for init_range in drawn_at:
                of_model.append(
                    measure(
                        adapter,
                        texts,
                        convention=convention,
                        layers=layers,
                        inside=inside,
                        seeds=range(untrained_seeds),
                        limit=limit,
                        seed=seed,
                        batch_tokens=computing.batch_tokens,
                        strict=keeping.strict,
                        out=folder,
                        cache=kept,
                        trained=of_model[0] if of_model else None,
                        init_range=init_range,
                        loss=not no_loss,
                        last_use=not tasks and init_range == drawn_at[-1],
                        progress=True,
                    )
                )
                results.append(of_model[-1])
            if rank().leads:  # which alone shows anything
                right = accuracies(
                    adapter,
                    tasks,
                    limit=accuracy_limit,
                    batch_tokens=computing.batch_tokens,
                    progress=True,
                    kept=folder.path / ACCURACY if folder else None,
                )
                of_model = [replace(of, accuracy=right) for of in of_model]
            if model in names:
                called = "@".join(filter(None, (names[model], revision)))
                # Behind the model's name stands what its twins were drawn with, where that was asked for.
                of_model = [replace(of, name=called + of.model.removeprefix(adapter.name)) for of in of_model]
            results[-len(of_model) :] = of_model
            del adapter  # before the next one takes its place
