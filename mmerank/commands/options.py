"""Options that say of what, where to and how a command runs, each defined once."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmerank.commands.config import read_config
from mmerank.files import require_local

_RUN = "Run"
_HOW = "How to compute"
_CONVENTION = "Convention (stored in every result)"
_BESIDE = "Beside eRank1 to eRank5"


def _local(parameter: typer.CallbackParam, value: Any) -> Any:
    """Refuse an address before anything is imported or measured."""
    require_local(value, parameter.opts[0])
    return value


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Hub ids (also with @REVISION), directories, YAML files, or demo-llava, demo-minigpt-v2.",
        show_default=False,
    ),
]
TextModels = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="Hub ids or directories of language models, or YAML files.", show_default=False
    ),
]
Encoders = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="open_clip:NAME:PRETRAINED, timm:NAME[:FILE], or a hub id or directory of CLIP, SigLIP or their like.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Hub id, directory, YAML file, demo-llava or demo-minigpt-v2.", show_default=False
    ),
]
ModelOrEncoder = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Hub id, directory, YAML file, demo-llava or demo-minigpt-v2; or an encoder, open_clip:NAME:PRETRAINED, "
        "timm:NAME[:FILE], or CLIP, SigLIP and their like.",
        show_default=False,
    ),
]
# What fits unbroken into the narrowest column at 80 characters.
_PAIRS_HELP = (
    "Image-text pairs: llava:FILE.json[?images=DIR], minigpt:DIR, detail_23k:FILE.json, cc_sbu_align:DIR, "
    "hub:NAME?image=A&response=B, csv:FILE, jsonl:FILE, parquet:FILE, saved:DIR, webdataset:FILES, or demo."
)
Data = Annotated[str, typer.Option(metavar="DATA", help=_PAIRS_HELP, show_default=False)]
Questions = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="pope:FILE, scienceqa:FILE, mmbench:FILE, choices:FILE (your own), each also KIND:hub:NAME\\[:SPLIT]; "
        "or lm-eval:TASK, a generation task of lm-eval or a YAML file, which may run code.",
        show_default=False,
    ),
]
DataWithDefault = Annotated[str, typer.Option(metavar="DATA", help=_PAIRS_HELP)]

_COLUMNS = "Columns of csv:, jsonl:, parquet:, saved:, webdataset: and hub: data"
ImageColumn = Annotated[
    str | None,
    typer.Option("--image", metavar="COLUMN", help="With the pictures.", rich_help_panel=_COLUMNS),
]
ResponseColumn = Annotated[
    str | None,
    typer.Option("--response", metavar="COLUMN", help="With answers, captions or texts.", rich_help_panel=_COLUMNS),
]
InstructionColumn = Annotated[
    str | None,
    typer.Option(
        "--instruction",
        metavar="COLUMN",
        help='With what the model is asked; "" for captions alone.',
        rich_help_panel=_COLUMNS,
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="With ids; default: id, or row numbers.", rich_help_panel=_COLUMNS),
]

Names = Annotated[
    list[str],
    typer.Option(
        "--name",
        metavar="NAME=MODEL",
        help="What tables call a model. Several times if need be.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Log every number to wandb, tensorboard, trackio or swanlab, too.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
ReportNames = Annotated[
    list[str],
    typer.Option(
        "--name",
        metavar="NAME=MODEL",
        help="What tables and figures call a model of the runs. Several times if need be.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use only N examples, the first ones.", rich_help_panel=_RUN)
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --limit: draw the examples at random.", rich_help_panel=_RUN),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN_DIR", help="Keep records here; continue when it exists.", rich_help_panel=_RUN, callback=_local
    ),
]
DemoOut = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Keep records here; continue when it exists.", rich_help_panel=_RUN, callback=_local
    ),
]
All = Annotated[
    bool,
    typer.Option("--all", help="Print every number, interval and test, not the largest alone.", rich_help_panel=_RUN),
]
Export = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Only write the demo's pairs here, replacing an earlier export, as a data set to imitate.",
        show_default=False,
        callback=_local,
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the results as JSON, replacing FILE; - for stdout.",
        rich_help_panel=_RUN,
        callback=_local,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail at the first example that would be skipped.", rich_help_panel=_RUN)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_RUN)]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="Take options from a file, as the command.yaml of a run; those given here win.",
        is_eager=True,
        callback=read_config,
    ),
]

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN",
        help="Folders that --out of align, perturb, diff, encode or demo was given; of report also "
        "hub:OWNER/NAME\\[/RUN]\\[@REVISION], as push makes one.",
        show_default=False,
    ),
]
ReportOut = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where to write; default: report in RUN.", show_default=False, callback=_local),
]
Html = Annotated[bool, typer.Option("--html", help="Only the page.")]
Latex = Annotated[bool, typer.Option("--latex", help="Only the tables, in LaTeX (booktabs).")]
Csv = Annotated[bool, typer.Option("--csv", help="Only the numbers, of the data sets and of each example.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Only the tables, in Markdown.")]

Scores = Annotated[
    list[Path],
    typer.Option(
        metavar="FILE",
        help="Set every number against these scores of the models on benchmarks: CSV, YAML or JSON with model, "
        "benchmark, value (and n, unit), results of lm-eval, lmms-eval or VLMEvalKit, or a folder of such or of "
        "mmerank score. Several times if need be.",
        show_default=False,
    ),
]
Scatter = Annotated[
    list[str],
    typer.Option(
        metavar="X,Y",
        help="A figure of the models by two numbers, as numbers.csv names them, or scores: erank5,POPE. "
        "Several times if need be.",
        show_default=False,
    ),
]
FigureStyle = Annotated[
    Literal["paper", "slides"],
    typer.Option(help="How figures/ are drawn: for one column or two of a paper, or for slides."),
]
WithData = Annotated[
    bool,
    typer.Option(
        "--with-data",
        help="Read the data that a run names again wherever they lie, for texts and pictures on the page; without "
        "it only those below the run's folder or the current one. For runs of people you trust.",
    ),
]

Transforms = Annotated[
    list[str],
    typer.Option(
        "--transform",
        metavar="NAME[:STRENGTH]",
        help="rotate:90, blur:1,2,4 (a sweep), rotate:90+blur:2 (one after the other), ... Several times if need be.",
        show_default=False,
    ),
]
Controls = Annotated[
    list[str],
    typer.Option(
        "--control",
        metavar="KIND",
        help="A null from other examples' texts: mismatch (fed with the picture) or independent (their rows put "
        "beside its).",
        show_default=False,
    ),
]
ControlDraws = Annotated[
    int, typer.Option(min=1, metavar="R", help="How often a null is drawn; its p is never below 2 / (R + 1).")
]
PerturbSeed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Of what is random in transforms and controls (0 by default); with --limit, of the sample too.",
        rich_help_panel=_RUN,
    ),
]

Study = Annotated[
    str,
    typer.Argument(metavar="NAME", help="table1 to table4, table6 to table11, figure1, figure3, figure4."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what is needed, and what to fetch by hand; load nothing.")
]
OnlyModels = Annotated[
    str, typer.Option(metavar="NAMES", help="Only these, joined by commas: 125M,1.3B.", show_default=False)
]
ModelsFrom = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML, size or name -> MODEL, in place of the published checkpoints."),
]
StudyData = Annotated[
    list[str],
    typer.Option(
        metavar="DATA", help="In place of each data set, in their order; several times.", show_default=False
    ),
]
DataFrom = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML, name of a data set -> DATA.")]
SweepConventions = Annotated[
    bool,
    typer.Option(
        "--sweep-conventions", help="table2: under several conventions, by distance to the printed numbers."
    ),
]
StudyAccuracy = Annotated[
    str,
    typer.Option(
        "--accuracy",
        metavar="TASKS",
        help="Tasks of lm-eval in place of the study's; none to leave accuracy out.",
        show_default=False,
    ),
]
StudyOut = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep run folders here; continue them. (default: runs/reproduce/NAME)",
        rich_help_panel=_RUN,
        callback=_local,
    ),
]

Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, mps, or auto (spread over all). (default: cuda if there is one)",
        rich_help_panel=_HOW,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="float32, bfloat16, float16 or float64. (default: the checkpoint's)",
        rich_help_panel=_HOW,
    ),
]
LoadIn = Annotated[
    str | None,
    typer.Option(
        metavar="8bit|4bit",
        help="Quantise the weights with bitsandbytes (LLaVA, language models).",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Wrap = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:FUNCTION",
        help="Change the model once it is loaded (prune it, put LoRA in): a function of its module, also "
        "package.module:FUNCTION, with ?OPTION=VALUE behind it. Its code is run.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Most LLM positions in a batch. (default: up to 8192, as many as fit; on a CPU one example)",
        rich_help_panel=_HOW,
    ),
]
SeparatePasses = Annotated[
    bool,
    typer.Option("--separate-passes", help="Never read the image input from the pair pass.", rich_help_panel=_HOW),
]
MaxMegapixels = Annotated[
    float, typer.Option(min=0, max=10_000, metavar="N", help="Skip larger pictures.", rich_help_panel=_HOW)
]

TextData = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="text:FILE.txt, text:FILE.jsonl#FIELD, text:FILE.parquet#COLUMN, hub:NAME[:SPLIT]#COLUMN, "
        "csv:FILE, jsonl:FILE, parquet:FILE, saved:DIR, webdataset:FILES with --response, or "
        "dolly-15k, hh-rlhf, wikipedia, openwebtext2, openbookqa, piqa, winogrande, each also as NAME:PATH.",
        show_default=False,
    ),
]

ExploredModels = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL]...",
        help="One or two: hub ids, directories, YAML files. (default: both demo models, or none with --run)",
        show_default=False,
    ),
]
ExploredRun = Annotated[
    Path | None,
    typer.Option(
        "--run", metavar="DIR", help="Look through this run, of whatever job.", show_default=False, callback=_local
    ),
]
Host = Annotated[
    str,
    typer.Option(metavar="HOST", help="Where to serve; any but this default lets others use it, without a password."),
]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, metavar="N", help="(default: the first free one from 7860)", show_default=False),
]
