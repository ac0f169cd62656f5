"""Command line: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmerank import __version__, options
from mmerank.convention import Convention, TextConvention
from mmerank.errors import Interrupted, MmerankError, UsageError, printable
from mmerank.processes import rank

if TYPE_CHECKING:
    from mmerank.alignment import Alignment
    from mmerank.analysis.paired import Comparison
    from mmerank.diff_erank import Diff
    from mmerank.runs import RunFolder

LONGEST_MESSAGE = 1500

app = typer.Typer(
    help="Effective rank (eRank) of hidden token representations, and image-text alignment measured with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def align(
    models: options.Models,
    data: options.Data,
    limit: options.Limit = None,
    seed: options.Seed = None,
    out: options.Out = None,
    json_file: options.Json = None,
    strict: options.Strict = False,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    load_in: options.LoadIn = None,
    batch_tokens: options.BatchTokens = None,
    separate_passes: options.SeparatePasses = False,
    max_megapixels: options.MaxMegapixels = 100,
    match_tokens: options.MatchTokens = None,
    match_repeats: options.MatchRepeats = 8,
    match_seed: options.MatchSeed = 0,
    token_curve: options.TokenCurve = "",
    rows: options.Rows = False,
    companions: options.Companions = False,
    layers: options.PairLayers = "",
    clip: options.Clip = None,
    sequence: options.Sequence = "bare",
    image_layout: options.ImageLayout = "model",
    tokens: options.Tokens = "all",
    vision_point: options.VisionPoint = "default",
    centre: options.Centre = "mean",
    precision: options.Precision = "float64",
    aggregate: options.Aggregate = "entropy",
) -> None:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment (the paper's Table 2)."""
    from mmerank.adapter import check_model, load
    from mmerank.alignment import align as measure
    from mmerank.alignment import open_align_run
    from mmerank.data import load_data

    _check_writable(json_file)
    convention = Convention(
        sequence=sequence,
        image_layout=image_layout,
        tokens=tokens,
        vision_point=vision_point,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
        match_tokens=match_tokens,
        match_repeats=match_repeats,
        match_seed=match_seed,
        token_curve=options.row_counts(token_curve),
        rows=rows,
        companions=companions,
    )
    examples = load_data(data)
    max_pixels = int(max_megapixels * 1e6)
    folder = None
    if out is not None:
        folder = open_align_run(
            out, examples, convention, layers=layers, max_pixels=max_pixels, limit=limit, seed=seed
        )
    _quiet()
    for model in models:  # a typo in the last one must not cost the time of the first
        check_model(model)
    results: list[Alignment] = []
    with _shown_at_the_end(lambda: _show(results, folder, json_file), out):
        for model in models:
            results.append(
                measure(
                    load(model, dtype=dtype, device=device, load_in=load_in),
                    examples,
                    convention=convention,
                    limit=limit,
                    seed=seed,
                    batch_tokens=batch_tokens,
                    share_prefix=not separate_passes,
                    max_pixels=max_pixels,
                    strict=strict,
                    out=folder,
                    progress=True,
                    clip=clip,
                    layers=layers,
                )
            )


@app.command()
def perturb(
    model: options.Model,
    data: options.Data,
    transform: options.Transforms = [],  # noqa: B006 (typer takes no tuple)
    control: options.Controls = [],  # noqa: B006
    control_draws: options.ControlDraws = 39,
    limit: options.Limit = None,
    seed: options.PerturbSeed = None,
    out: options.Out = None,
    json_file: options.Json = None,
    strict: options.Strict = False,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    load_in: options.LoadIn = None,
    batch_tokens: options.BatchTokens = None,
    separate_passes: options.SeparatePasses = False,
    max_megapixels: options.MaxMegapixels = 100,
    match_tokens: options.MatchTokens = None,
    match_repeats: options.MatchRepeats = 8,
    match_seed: options.MatchSeed = 0,
    token_curve: options.TokenCurve = "",
    rows: options.Rows = False,
    companions: options.Companions = False,
    sequence: options.Sequence = "bare",
    image_layout: options.ImageLayout = "model",
    tokens: options.Tokens = "all",
    vision_point: options.VisionPoint = "default",
    centre: options.Centre = "mean",
    precision: options.Precision = "float64",
    aggregate: options.Aggregate = "entropy",
) -> None:
    """The same numbers before and after transforms of picture or text (the paper's Table 3).

    Of the picture: identity, rotate, flip, crop, zoom, blur, noise, jpeg, brightness, contrast, grey, occlude,
    shuffle, blank, other. Of the text: shuffle-words, other-text. docs/perturbation.md says what each of them does.
    """
    from rich.console import Console

    from mmerank.adapter import check_model, load
    from mmerank.data import load_data
    from mmerank.perturbation import asked_for, open_perturb_run
    from mmerank.perturbation import perturb as measure
    from mmerank.report import perturbation_view

    _check_writable(json_file)
    transforms, controls = asked_for(transform, control, control_draws)
    convention = Convention(
        sequence=sequence,
        image_layout=image_layout,
        tokens=tokens,
        vision_point=vision_point,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
        match_tokens=match_tokens,
        match_repeats=match_repeats,
        match_seed=match_seed,
        token_curve=options.row_counts(token_curve),
        rows=rows,
        companions=companions,
    )
    examples = load_data(data)
    max_pixels = int(max_megapixels * 1e6)
    folder = None
    if out is not None:
        folder = open_perturb_run(
            out,
            examples,
            transforms,
            controls,
            convention=convention,
            control_draws=control_draws,
            max_pixels=max_pixels,
            limit=limit,
            seed=seed,
        )
    _quiet()
    check_model(model)
    with _continued_from(out):
        result = measure(
            load(model, dtype=dtype, device=device, load_in=load_in),
            examples,
            transform,
            controls=controls,
            control_draws=control_draws,
            convention=convention,
            limit=limit,
            seed=seed,
            batch_tokens=batch_tokens,
            share_prefix=not separate_passes,
            max_pixels=max_pixels,
            strict=strict,
            out=folder,
            progress=True,
        )
    if folder is not None:
        folder.write_summary(result.to_dict())
    if rank().leads and not _write_json(result.to_dict(), json_file):
        Console().print(perturbation_view(result))


@app.command()
def diff(
    models: options.TextModels,
    data: options.TextData,
    layers: options.Layers = "",
    tokenizer: options.Tokenizer = None,
    revisions: options.Revisions = "",
    accuracy: options.AccuracyTasks = "",
    accuracy_limit: options.AccuracyLimit = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    out: options.Out = None,
    json_file: options.Json = None,
    strict: options.Strict = False,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    load_in: options.LoadIn = None,
    batch_tokens: options.BatchTokens = None,
    no_cache: options.NoCache = False,
    untrained_mode: options.UntrainedMode = "eval",
    untrained_seeds: options.UntrainedSeeds = 1,
    max_tokens: options.MaxTokens = 2048,
    skip_first: options.SkipFirst = 0,
    centre: options.Centre = "mean",
    precision: options.Precision = "float64",
    aggregate: options.Aggregate = "entropy",
) -> None:
    """Diff-eRank, reduced loss and accuracy of language models (the paper's Tables 1, 4 and 6 to 11)."""
    from dataclasses import replace

    from mmerank.accuracy import accuracies, check_tasks, fetch_questions
    from mmerank.data import load_data
    from mmerank.diff_erank import diff as measure
    from mmerank.diff_erank import open_diff_run
    from mmerank.runs import cache_folder
    from mmerank.text_adapter import check_text_model, load_text

    _check_writable(json_file)
    tasks = _listed(accuracy)
    check_tasks(tasks)
    convention = TextConvention(
        untrained_mode=untrained_mode,
        max_tokens=max_tokens,
        skip_first=skip_first,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
    )
    texts = load_data(data)
    folder = None
    if out is not None:
        folder = open_diff_run(out, texts, convention, layers=layers, limit=limit, seed=seed)
    _quiet()
    sweep = [(model, revision) for model in models for revision in _listed(revisions) or (None,)]
    for model, revision in sweep:  # a typo in the last one must not cost the time of the first
        check_text_model(model, revision)
    fetch_questions(tasks)
    results: list[Diff] = []
    with _shown_at_the_end(lambda: _show_diff(results, folder, json_file), out), ExitStack() as stack:
        # Kept for this command alone, so that the models of it share their untrained twins all the same.
        kept = stack.enter_context(TemporaryDirectory(prefix="mmerank-")) if no_cache else cache_folder()
        for model, revision in sweep:
            adapter = load_text(
                model, dtype=dtype, device=device, tokenizer=tokenizer, revision=revision, load_in=load_in
            )
            results.append(
                measure(
                    adapter,
                    texts,
                    convention=convention,
                    layers=layers,
                    seeds=range(untrained_seeds),
                    limit=limit,
                    seed=seed,
                    batch_tokens=batch_tokens,
                    strict=strict,
                    out=folder,
                    cache=kept,
                    progress=True,
                )
            )
            if rank().leads:  # which alone shows anything
                right = accuracies(adapter, tasks, limit=accuracy_limit, batch_tokens=batch_tokens, progress=True)
                results[-1] = replace(results[-1], accuracy=right)
            del adapter  # before the next one takes its place


@app.command()
def reproduce(
    name: options.Study,
    dry_run: options.DryRun = False,
    models: options.OnlyModels = "",
    models_from: options.ModelsFrom = None,
    data: options.StudyData = [],  # noqa: B006 (typer takes no tuple)
    data_from: options.DataFrom = None,
    sweep_conventions: options.SweepConventions = False,
    accuracy: options.StudyAccuracy = "",
    accuracy_limit: options.AccuracyLimit = None,
    tokenizer: options.Tokenizer = None,
    limit: options.Limit = None,
    out: options.StudyOut = None,
    json_file: options.Json = None,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """A table or figure of the paper, ours beside the printed numbers.

    table1, table2, table3, table4, table6 to table11, figure1, figure3, figure4. docs/reproduction.md says what each
    needs and what the paper leaves open.
    """
    from rich.console import Console

    from mmerank.reproduction.estimate import needs, needs_notes, needs_tables
    from mmerank.reproduction.studies import planned

    _check_writable(json_file)
    jobs = planned(
        name,
        models=_listed(models),
        models_from=models_from,
        data=data,
        data_from=data_from,
        accuracy=accuracy,
        tokenizer=tokenizer,
        limit=limit,
    )
    if dry_run:
        found_needs = needs(jobs, dtype=dtype, sweep=sweep_conventions)
        if not _write_json({"name": name, **found_needs.to_dict()}, json_file):
            for table in needs_tables(name, found_needs):
                Console().print(table)
            print("\n".join(needs_notes(found_needs)))
        return
    from mmerank.reproduction.study import Reproduction, reproduced, reproduction_notes, reproduction_tables

    folder = out or Path("runs") / "reproduce" / name
    found: list[Reproduction] = []

    def show() -> None:
        if found and not _write_json(found[-1].to_dict(), json_file):
            for table in reproduction_tables(found[-1]):
                Console().print(table)
            print("\n".join(reproduction_notes(found[-1], folder)))

    _quiet()
    with _shown_at_the_end(show, folder):
        for so_far in reproduced(
            name,
            jobs,
            folder,
            sweep=sweep_conventions,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
            accuracy_limit=accuracy_limit,
        ):
            found[:] = [so_far]


@app.command()
def report(
    runs: options.Runs,
    out: options.ReportOut = None,
    html: options.Html = False,
    latex: options.Latex = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
    debug: options.Debug = False,
) -> None:
    """Tables, figures and one HTML page from finished runs, without the models."""
    from mmerank.reporting.write import report as write

    asked = {"html": html, "latex": latex, "csv": csv, "markdown": markdown}
    for path in write(runs, out, formats=[name for name, wanted in asked.items() if wanted]):
        typer.echo(path)


@app.command()
def doctor(
    model: options.Model,
    data: options.DataWithDefault = "demo",
    json_file: options.Json = None,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_megapixels: options.MaxMegapixels = 100,
    sequence: options.Sequence = "bare",
    image_layout: options.ImageLayout = "model",
    tokens: options.Tokens = "all",
    vision_point: options.VisionPoint = "default",
    centre: options.Centre = "mean",
    precision: options.Precision = "float64",
) -> None:
    """Load a model, run one example, and show hook points, shapes, token layout and warnings."""
    from dataclasses import asdict

    from rich.console import Console

    from mmerank.adapter import load
    from mmerank.data import load_data
    from mmerank.doctor import examine
    from mmerank.report import examination_view

    _check_writable(json_file)
    convention = Convention(
        sequence=sequence,
        image_layout=image_layout,
        tokens=tokens,
        vision_point=vision_point,
        centre=centre,
        precision=precision,
    )
    examples = load_data(data)
    _quiet()
    adapter = load(model, dtype=dtype, device=device)
    found = examine(adapter, examples, convention=convention, max_pixels=int(max_megapixels * 1e6))
    if not _write_json({**asdict(found), "convention": convention.to_dict()}, json_file):
        Console().print(examination_view(found))


@app.command()
def demo(
    out: options.DemoOut = Path("runs/demo"),
    export: options.Export = None,
    json_file: options.Json = None,
    debug: options.Debug = False,
) -> None:
    """The main job on two small trained models and held-out pictures, offline, with words to it."""
    from rich.console import Console

    from mmerank.demo import PAIRS
    from mmerank.demo.scenes import export as write
    from mmerank.demo.scenes import scene
    from mmerank.tour import tour, tour_view

    _check_writable(json_file)
    if export is not None:
        manifest = write([scene("held-out", i) for i in range(PAIRS)], export)
        typer.echo(f"{PAIRS} pairs in {manifest} and {manifest.parent / 'images'}: --data llava:{manifest}")
        return
    _quiet()
    with _continued_from(out):
        stops = tour(out, progress=True)
    if rank().leads and not _write_json({"results": [stop.to_dict() for stop in stops]}, json_file):
        Console(width=min(Console().width, 100)).print(tour_view(stops, out))


def _listed(words: str) -> list[str]:
    """Words joined by commas, each once."""
    return list(dict.fromkeys(filter(None, (word.strip() for word in words.split(",")))))


@contextmanager
def _shown_at_the_end(show: Callable[[], None], out: Path | None) -> Iterator[None]:
    """Show what is finished even when a later model fails; of several processes only the first shows anything."""
    try:
        with _continued_from(out):
            yield
    finally:
        if rank().leads:
            show()


@contextmanager
def _continued_from(out: Path | None) -> Iterator[None]:
    """Say how to go on after an interruption.

    Raises:
        Interrupted: The person stopped the run.
        UsageError: There are several processes, and no folder in which they meet.
    """
    if out is None and rank().count > 1:
        raise UsageError(
            f"this is one of {rank().count} processes (WORLD_SIZE); with --out RUN_DIR, a folder that all of them "
            "see, they share the examples"
        )
    try:
        yield
    except KeyboardInterrupt:
        kept = f"; the same command continues from {out}" if out is not None else "; with --out it could be continued"
        raise Interrupted(f"interrupted{kept}") from None


def _finished(
    results: Sequence[Alignment | Diff],
    folder: RunFolder | None,
    json_file: str | None,
    comparisons: Sequence[Comparison] = (),
) -> bool:
    """Write summary and JSON; true if there is something to print."""
    if not results:
        return False
    summary: dict[str, Any] = {"results": [result.to_dict() for result in results]}
    if comparisons:
        summary["comparisons"] = [comparison.to_dict() for comparison in comparisons]
    if folder is not None:
        folder.write_summary(summary)
    return not _write_json(summary, json_file)


def _show_diff(results: list[Diff], folder: RunFolder | None, json_file: str | None) -> None:
    from rich.console import Console

    from mmerank.report import diff_standing, diff_tables

    comparisons = _compared(results)
    if not _finished(results, folder, json_file, comparisons):
        return
    for table in diff_tables(results):
        Console().print(table)
    for result in results:
        print("\n".join(diff_standing(result)))
    _show_comparisons(comparisons)


def _show(results: list[Alignment], folder: RunFolder | None, json_file: str | None) -> None:
    from rich.console import Console

    from mmerank.report import alignment_tables, standing

    comparisons = _compared(results)
    if not _finished(results, folder, json_file, comparisons):
        return
    for table in alignment_tables(results):
        Console().print(table)
    for result in results:
        print("\n".join(standing(result)))
    _show_comparisons(comparisons)


def _compared(results: Sequence[Alignment | Diff]) -> list[Comparison]:
    """Each two models on the examples that both have; of more than a table has room for, each with the next."""
    if len(results) < 2:
        return []
    from mmerank.analysis.paired import compare, controlled
    from mmerank.report import MANY

    pairs = [
        (a, b)
        for a, b in (combinations(results, 2) if len(results) <= MANY else pairwise(results))
        if {record.example for record in a.records} & {record.example for record in b.records}
    ]
    return controlled(compare(a, b) for a, b in pairs) if pairs else []


def _show_comparisons(comparisons: Sequence[Comparison]) -> None:
    from rich.console import Console

    from mmerank.uncertainty import comparison_notes, comparison_table

    for comparison in comparisons:
        Console().print(comparison_table(comparison))
    if comparisons:
        print("\n".join(comparison_notes(comparisons)))


def _write_json(content: dict[str, Any], json_file: str | None) -> bool:
    """Write what --json asks for; true if it went to stdout, where nothing else may go then."""
    text = json.dumps(content, indent=1, allow_nan=False)
    if json_file == "-":
        print(text)
    elif json_file is not None:
        Path(json_file).write_text(text + "\n")
    return json_file == "-"


def _check_writable(json_file: str | None) -> None:
    """Better now than after the run."""
    if json_file in (None, "-"):
        return
    if not Path(json_file).absolute().parent.is_dir():
        raise UsageError(f"--json {json_file}: no such folder to write to")
    if Path(json_file).is_dir():
        raise UsageError(f"--json {json_file}: is a folder; name a file in it")
    new = not Path(json_file).exists()
    try:
        with Path(json_file).open("a"):
            pass
        if new:
            Path(json_file).unlink()
    except OSError as error:
        raise UsageError(f"--json {json_file}: cannot be written ({error.strerror})") from None


def _quiet() -> None:
    """Keep what transformers prints while loading out of ours; adapters raise on what matters."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"mmerank {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        arguments: Without the program's name; default: those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # What a scheduler sends before it kills: finish the part, as for Ctrl-C.
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    guarded(lambda: app(given, prog_name="mmerank"), debug="--debug" in given)


def guarded(work: Callable[[], Any], *, debug: bool = False) -> None:
    """Run a program so that errors are one line on stderr and an exit status; what the scripts end with too.

    Args:
        work: The program.
        debug: Let errors through.
    """
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", status=130))
    except Exception as error:
        if debug:
            raise
        statuses = {UsageError: 2, Interrupted: 130}
        if isinstance(error, MmerankError):
            sys.exit(_fail(str(error), status=statuses.get(type(error), 1)))
        sys.exit(_fail(f"{type(error).__name__}: {error} (--debug shows where)"))


def _fail(message: str, status: int = 1) -> int:
    line = printable(message)
    if len(line) > LONGEST_MESSAGE:  # an id or a path may have any length
        line = f"{line[: LONGEST_MESSAGE // 2]} … {line[-LONGEST_MESSAGE // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
