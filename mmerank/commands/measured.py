"""Options that say what is measured, and the choices in it, each defined once."""

import math
from typing import Annotated

import typer

from mmerank import convention
from mmerank.inputs.questions import Answers

_HOW = "How to compute"
_CONVENTION = "Convention (stored in every result)"
_BESIDE = "Beside eRank1 to eRank5"

Layers = Annotated[
    str,
    typer.Option(metavar="LAYERS", help="Look at these too: all, or first,middle,3,...", show_default=False),
]
Inside = Annotated[
    str,
    typer.Option(
        metavar="BLOCKS",
        help="What attention and MLP of these blocks add to the residual stream: all, or first,middle,3,...",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Hub id or directory, for checkpoints without one.", show_default=False),
]
Revisions = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Branches, tags or commits of each MODEL on the hub, joined by commas: the steps of its pre-training.",
        show_default=False,
    ),
]
AccuracyTasks = Annotated[
    str,
    typer.Option(
        "--accuracy",
        metavar="TASKS",
        help="Accuracy on these tasks of lm-eval, too: piqa,winogrande,openbookqa, ..., or a YAML file, which may "
        "run code.",
        show_default=False,
    ),
]
AccuracyLimit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use only N questions of each task, the first ones.")
]
ScoredAnswers = Annotated[
    Answers,
    typer.Option(help="What is scored: letters of the listed choices, or their texts behind the question alone."),
]
ScoredSequence = Annotated[
    convention.SequenceForm,
    typer.Option("--sequence", help="How a question is put: the model's template, or bare."),
]
Circular = Annotated[
    bool,
    typer.Option(
        "--circular",
        help="Ask with each choice first in turn, and count what is right every time (CircularEval of MMBench).",
    ),
]
NoLoss = Annotated[
    bool,
    typer.Option("--no-loss", help="eRanks alone: the LM head is not run.", rich_help_panel=_HOW),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not keep the untrained models' records between runs.", rich_help_panel=_HOW),
]
UntrainedMode = Annotated[
    convention.UntrainedMode,
    typer.Option(help="Dropout of the untrained model; train: on.", rich_help_panel=_CONVENTION),
]
UntrainedSeed = Annotated[
    int, typer.Option(metavar="N", help="Of the untrained model's weights.", rich_help_panel=_CONVENTION)
]
EncoderLayers = Annotated[
    str,
    typer.Option("--layers", metavar="LAYERS", help="Measure these: all, or first,middle,3,...; the last always."),
]
EncoderBatchTokens = Annotated[
    int | None,
    typer.Option(
        "--batch-tokens",
        min=0,
        metavar="N",
        help="Most patches and tokens in a batch. (default: 8192, fewer with many layers; on a CPU one example)",
        rich_help_panel=_HOW,
    ),
]
UntrainedSeeds = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of untrained models.", rich_help_panel=_CONVENTION)
]
InitRanges = Annotated[
    str,
    typer.Option(
        "--init-range",
        metavar="X,X,...",
        help="Draw untrained models with these standard deviations in place of config.json's initializer_range.",
        show_default=False,
        rich_help_panel=_CONVENTION,
    ),
]
TextOnly = Annotated[
    bool,
    typer.Option("--text-only", help="MODELs are language models, and the prompt is a text.", show_default=False),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(min=convention.LEAST_ROWS, metavar="N", help="Of a response.", rich_help_panel=_CONVENTION),
]
Stride = Annotated[
    int,
    typer.Option(min=2, metavar="N", help="Take the eRank again every N rows.", rich_help_panel=_CONVENTION),
]
Sampling = Annotated[
    convention.Sampling,
    typer.Option(help="Take the likeliest token, or draw one.", rich_help_panel=_CONVENTION),
]
Temperature = Annotated[float, typer.Option(metavar="T", help="Of the drawing.", rich_help_panel=_CONVENTION)]
TopP = Annotated[
    float,
    typer.Option(metavar="P", help="Draw from this share of the probability.", rich_help_panel=_CONVENTION),
]
SamplingSeed = Annotated[int, typer.Option(metavar="N", help="Of the drawing.", rich_help_panel=_CONVENTION)]
PromptSequence = Annotated[
    convention.SequenceForm,
    typer.Option(
        "--sequence", help="What stands around a prompt: the chat template, or BOS.", rich_help_panel=_CONVENTION
    ),
]
Keep = Annotated[
    str,
    typer.Option(metavar="X,X,...", help="Shares of a picture's rows that are kept.", rich_help_panel=_CONVENTION),
]
KeptBy = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="NAME,...",
        help="How they are chosen: random, downsample (both always), norm, attention, diversity, or a function of "
        "your own, FILE.py:FUNCTION or package.module:FUNCTION, whose code is run.",
        rich_help_panel=_CONVENTION,
    ),
]
Draws = Annotated[int, typer.Option(min=1, metavar="N", help="Of random.", rich_help_panel=_CONVENTION)]
DrawSeed = Annotated[int, typer.Option(min=0, metavar="N", help="Of these draws.", rich_help_panel=_CONVENTION)]
AttentionLayer = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Of the LLM, whose attention is gone by; 1: the first.", rich_help_panel=_CONVENTION
    ),
]
Neighbours = Annotated[
    int, typer.Option(min=1, metavar="K", help="Most of a row, for the k-NN overlap.", rich_help_panel=_CONVENTION)
]
MaxTokens = Annotated[int, typer.Option(min=2, metavar="N", help="Cut texts there.", rich_help_panel=_CONVENTION)]
SkipFirst = Annotated[
    int, typer.Option(min=0, metavar="N", help="Leading tokens that do not count.", rich_help_panel=_CONVENTION)
]

MatchTokens = Annotated[
    int | None,
    typer.Option(
        min=convention.LEAST_ROWS,
        metavar="K",
        help="Also with K random rows in each measurement, so that token counts do not differ.",
        rich_help_panel=_BESIDE,
    ),
]
MatchRepeats = Annotated[int, typer.Option(min=1, metavar="N", help="Draws of rows.", rich_help_panel=_BESIDE)]
MatchSeed = Annotated[int, typer.Option(metavar="N", help="Of the draws.", rich_help_panel=_BESIDE)]
MatchOthers = Annotated[
    int,
    typer.Option(min=1, metavar="K", help="Pictures of other examples, for match_margin.", rich_help_panel=_BESIDE),
]
TokenCurve = Annotated[
    str,
    typer.Option(
        metavar="N,N,...", help="eRank against the number of rows.", show_default=False, rich_help_panel=_BESIDE
    ),
]
Rows = Annotated[
    bool, typer.Option("--rows", help="Image rows, text rows, and all rows but one.", rich_help_panel=_BESIDE)
]
PairLayers = Annotated[
    str,
    typer.Option(
        "--layers",
        metavar="LAYERS",
        help="The pair's image and text rows at these layers of the LLM too, and the picture's at those of the "
        "vision encoder: all, or first,middle,3,...",
        show_default=False,
        rich_help_panel=_BESIDE,
    ),
]
PairInside = Annotated[
    str,
    typer.Option(
        "--inside",
        metavar="BLOCKS",
        help="What attention and MLP of these blocks add to the residual stream: all, or first,middle,3,...",
        show_default=False,
        rich_help_panel=_BESIDE,
    ),
]
Patches = Annotated[
    bool,
    typer.Option(
        "--patches",
        help="What each row adds to the entropy, and where it lies in the picture; costly with many rows.",
        rich_help_panel=_BESIDE,
    ),
]
Companions = Annotated[
    bool,
    typer.Option(
        "--companions", help="CKA and mutual k-NN of image and text, with their nulls.", rich_help_panel=_BESIDE
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        metavar="NAME,...|all",
        help="Also these of `mmerank metrics`; spectral, geometric, between, paired: all of a kind.",
        show_default=False,
        rich_help_panel=_BESIDE,
    ),
]
TextMetrics = Annotated[
    str,
    typer.Option(
        "--metrics",
        metavar="NAME,...|all",
        help="Also these of `mmerank metrics`; spectral, geometric: all of a kind.",
        show_default=False,
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL:PRETRAINED",
        help="CLIPScore by a model of open_clip, PRETRAINED being a tag or a file.",
        rich_help_panel=_BESIDE,
    ),
]

Sequence = Annotated[
    convention.SequenceForm,
    typer.Option(help="Around image and text: BOS, or the model's chat template.", rich_help_panel=_CONVENTION),
]
ImageLayout = Annotated[
    convention.ImageLayout,
    typer.Option(help="How a picture becomes a square; model: as in training.", rich_help_panel=_CONVENTION),
]
Tokens = Annotated[
    convention.Tokens,
    typer.Option(help="Rows that count at the LLM; modality: no BOS, no template.", rich_help_panel=_CONVENTION),
]
VisionPoint = Annotated[
    str,
    typer.Option(metavar="NAME", help="Where eRank1 is read; names differ by model.", rich_help_panel=_CONVENTION),
]
Centre = Annotated[
    convention.Centre, typer.Option(help="What is subtracted from the tokens.", rich_help_panel=_CONVENTION)
]
Precision = Annotated[convention.Precision, typer.Option(help="Of the arithmetic.", rich_help_panel=_CONVENTION)]
Aggregate = Annotated[
    convention.Aggregate,
    typer.Option(help="Over examples: exp of the mean entropy, or mean eRank.", rich_help_panel=_CONVENTION),
]


def row_counts(text: str) -> tuple[int, ...]:
    """What `--token-curve` says: numbers joined by commas, in any order.

    Args:
        text: Empty for none.

    Returns:
        Ascending.

    Raises:
        BadParameter: Something else, or a number of rows that is too small.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    least = convention.LEAST_ROWS
    bad = next((word for word in words if not word.isdecimal() or int(word) < least), None)
    if bad is not None:
        raise typer.BadParameter(
            f"{bad!r}: expected numbers from {least} on, as in 16,32,64", param_hint="--token-curve"
        )
    return tuple(sorted({int(word) for word in words}))


def shares(text: str) -> tuple[float, ...]:
    """What `--keep` says: numbers joined by commas.

    Args:
        text: As in `0.5,0.25`.

    Returns:
        They.

    Raises:
        BadParameter: Something else, or a number that is no share.
    """
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        try:
            found.append(float(word))
        except ValueError:
            found.append(math.nan)
        if not 0 < found[-1] < 1:
            raise typer.BadParameter(
                f"{word!r}: expected shares above 0 and below 1, as in 0.5,0.25", param_hint="--keep"
            )
    if not found:
        raise typer.BadParameter("no share is named; write --keep 0.5,0.25", param_hint="--keep")
    return tuple(found)
