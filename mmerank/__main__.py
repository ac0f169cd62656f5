"""Command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmerank import __version__, options
from mmerank.convention import Convention, TextConvention
from mmerank.errors import MmerankError, UsageError

if TYPE_CHECKING:
    from mmerank.alignment import Alignment

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
    batch_tokens: options.BatchTokens = None,
    separate_passes: options.SeparatePasses = False,
    max_megapixels: options.MaxMegapixels = 100,
    sequence: options.Sequence = "bare",
    image_layout: options.ImageLayout = "model",
    tokens: options.Tokens = "all",
    vision_point: options.VisionPoint = "default",
    centre: options.Centre = "mean",
    precision: options.Precision = "float64",
    aggregate: options.Aggregate = "entropy",
) -> None:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment (the paper's Table 2)."""
    from mmerank.adapter import load
    from mmerank.alignment import align as measure
    from mmerank.data import load_data
    from mmerank.runs import open_run

    _check_writable(json_file)
    convention = Convention(
        sequence=sequence,
        image_layout=image_layout,
        tokens=tokens,
        vision_point=vision_point,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
    )
    examples = load_data(data)
    folder = (
        None
        if out is None
        else open_run(out, "align", examples, {"convention": convention.to_dict()}, limit=limit, seed=seed)
    )
    _quiet()
    results = [
        measure(
            load(model, dtype=dtype, device=device),
            examples,
            convention=convention,
            limit=limit,
            seed=seed,
            batch_tokens=batch_tokens,
            share_prefix=not separate_passes,
            max_pixels=int(max_megapixels * 1e6),
            strict=strict,
            out=folder,
            progress=True,
        )
        for model in models
    ]
    summary = {"results": [result.to_dict() for result in results]}
    if folder is not None:
        folder.write_summary(summary)
    _show(results, summary, json_file)


@app.command()
def diff(
    models: options.Models,
    data: options.TextData,
    layers: options.Layers = "",
    tokenizer: options.Tokenizer = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    out: options.Out = None,
    json_file: options.Json = None,
    strict: options.Strict = False,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
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
    """Diff-eRank and reduced loss of language models (the paper's Tables 1, 4, 6 to 9 and 11)."""
    from rich.console import Console

    from mmerank.data import load_data
    from mmerank.diff_erank import diff as measure
    from mmerank.report import diff_standing, diff_table, layer_table
    from mmerank.runs import cache_folder, open_run
    from mmerank.text_adapter import load_text

    _check_writable(json_file)
    convention = TextConvention(
        untrained_mode=untrained_mode,
        max_tokens=max_tokens,
        skip_first=skip_first,
        centre=centre,
        precision=precision,
        aggregate=aggregate,
    )
    texts = load_data(data)
    settings = {"convention": convention.to_dict(), "layers": layers}
    folder = None if out is None else open_run(out, "diff", texts, settings, limit=limit, seed=seed)
    _quiet()
    results = [
        measure(
            load_text(model, dtype=dtype, device=device, tokenizer=tokenizer),
            texts,
            convention=convention,
            layers=layers,
            seeds=range(untrained_seeds),
            limit=limit,
            seed=seed,
            batch_tokens=batch_tokens,
            strict=strict,
            out=folder,
            cache=None if no_cache else cache_folder(),
            progress=True,
        )
        for model in models
    ]
    summary = {"results": [result.to_dict() for result in results]}
    if folder is not None:
        folder.write_summary(summary)
    if _write_json(summary, json_file):
        return
    Console().print(diff_table(results))
    for result in results:
        if len(result.points) > 1:
            Console().print(layer_table(result))
        print("\n".join(diff_standing(result)))


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
) -> None:
    """Load a model, run one example, and show hook points, shapes, token layout and warnings."""
    from dataclasses import asdict

    from rich.console import Console

    from mmerank.adapter import load
    from mmerank.data import load_data
    from mmerank.doctor import examine
    from mmerank.report import examination_view

    _check_writable(json_file)
    convention = Convention(sequence=sequence, image_layout=image_layout, tokens=tokens, vision_point=vision_point)
    examples = load_data(data)
    _quiet()
    adapter = load(model, dtype=dtype, device=device)
    found = examine(adapter, examples, convention=convention, max_pixels=int(max_megapixels * 1e6))
    if not _write_json({**asdict(found), "convention": convention.to_dict()}, json_file):
        Console().print(examination_view(found))


@app.command()
def demo(json_file: options.Json = None, debug: options.Debug = False) -> None:
    """The main job on a small built-in model and generated pictures, offline."""
    from mmerank.adapter import load
    from mmerank.alignment import align as measure
    from mmerank.data import load_data

    _check_writable(json_file)
    _quiet()
    result = measure(load("demo", device="cpu"), load_data("demo"), progress=True)
    _show([result], {"results": [result.to_dict()]}, json_file)
    typer.echo(
        "\nThe demo's model is a small LLaVA-1.5 with RANDOM weights, and its pictures are generated: this shows\n"
        "what mmerank prints, but the numbers say nothing about any trained model.",
        err=True,
    )


def _show(results: list[Alignment], summary: dict[str, Any], json_file: str | None) -> None:
    from rich.console import Console

    from mmerank.report import alignment_table, standing

    if _write_json(summary, json_file):
        return
    Console().print(alignment_table(results))
    for result in results:
        print("\n".join(standing(result)))


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
    if json_file not in (None, "-") and not Path(json_file).absolute().parent.is_dir():
        raise UsageError(f"--json {json_file}: no such folder to write to")


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
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage.

    Args:
        arguments: Without the program's name; default: those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, prog_name="mmerank")
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted"))
    except Exception as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, MmerankError):
            sys.exit(_fail(str(error), status=2 if isinstance(error, UsageError) else 1))
        sys.exit(_fail(f"{type(error).__name__}: {error} (--debug shows where)"))


def _fail(message: str, status: int = 1) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
