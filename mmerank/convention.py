"""The choices the paper leaves open, each named; the whole convention is stored in every result."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mmerank.errors import did_you_mean

SequenceForm = Literal["bare", "template"]
ImageLayout = Literal["model", "pad", "crop"]
Centre = Literal["mean", "median", "none"]
Precision = Literal["float64", "mixed"]
Tokens = Literal["all", "modality"]
Aggregate = Literal["entropy", "erank"]
UntrainedMode = Literal["eval", "train"]
Sampling = Literal["greedy", "sampled"]

LEAST_ROWS = 3
# Metrics that have choices of their own.
MATCH_MARGIN = "match_margin"
AT_CONNECTOR_ROWS = "erank_at_connector_rows"
# With more rows what each adds is not computed, which takes a decomposition for each, nor where they lie.
MOST_MAPPED = 1024
_NAME = re.compile(r"[\w.()-]{1,80}", re.ASCII)
# `FILE.py:FUNCTION` or `package.module:FUNCTION`; a lambda's name has brackets.
_OWN = re.compile(r"[^,:\n]{1,200}:[\w.<>]{1,80}")


@dataclass(frozen=True)
class Convention:
    """How a measurement is made. Defaults follow the paper where it speaks.

    Attributes:
        sequence: What the LLM reads. `bare`: BOS + image / BOS + text / BOS + image + text, with
            text = instruction + " " + response. `template`: the model's own conversation template, the
            response as the answer.
        image_layout: How a picture becomes the square the encoder wants. `model`: as the model was trained;
            `pad`: the shorter side filled with the mean colour; `crop`: shorter side scaled, centre cut out.
        tokens: Which rows enter the covariance at the LLM. `all`: every position of the sequence;
            `modality`: image and text rows only, without BOS and template.
        vision_point: Where eRank1 is read. `default`: what the connector reads, without CLS. Others by name,
            see the adapter.
        centre: What is subtracted from the tokens, see `mmerank.states.spectrum.spectrum`.
        precision: Of the arithmetic, see `mmerank.states.spectrum.spectrum`.
        aggregate: A data set's eRank. `entropy`: exp of the mean entropy, Diff-eRank Def. 3.5,
            "Algorithm (a)"; `erank`: mean of the eRanks, Sec. 6.2, "Algorithm (b)".
        match_tokens: Measure also this many rows, drawn at random, in place of all that there are.
        match_repeats: How often they are drawn.
        match_seed: Of the draws; with it, example, hook point and input decide which rows, and the ids of the
            examples whose pictures stand beside a response for `match_margin`.
        match_others: How many pictures of other examples these are.
        token_curve: Measure also so many rows, for each of these numbers, drawn in the same way.
        rows: Measure also image rows, text rows, and all but one row.
        companions: Keep each measurement's mean state, for measures that react to which text goes with which picture.
        metrics: Measure also these, by their names in `mmerank metrics`, or of metrics of your own.
        patches: Measure also what each row of an untouched example adds to the entropy, and where it lies in the
            picture: at the vision point, behind the connector, and at the LLM in the pass of the pair.

    Raises:
        ValueError: A value is not one of those named, or out of range.
    """

    sequence: SequenceForm = "bare"
    image_layout: ImageLayout = "model"
    tokens: Tokens = "all"
    vision_point: str = "default"
    centre: Centre = "mean"
    precision: Precision = "float64"
    aggregate: Aggregate = "entropy"
    match_tokens: int | None = None
    match_repeats: int = 8
    match_seed: int = 0
    match_others: int = 4
    token_curve: tuple[int, ...] = ()
    rows: bool = False
    companions: bool = False
    metrics: tuple[str, ...] = ()
    patches: bool = False

    def __post_init__(self) -> None:
        _check_choices(self)
        object.__setattr__(self, "metrics", in_order(self.metrics))
        for name, n in [("match_tokens", self.match_tokens), *(("token_curve", n) for n in self.token_curve)]:
            if n is not None and n < LEAST_ROWS:
                raise ValueError(
                    f"{name} must be at least {LEAST_ROWS}, got {n}: two centred rows always have an eRank of 1"
                )
        if sorted(set(self.token_curve)) != list(self.token_curve):
            raise ValueError(f"token_curve must ascend, got {', '.join(map(str, self.token_curve))}")
        for name in ("match_repeats", "match_others"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def studies_rows(self) -> bool:
        """Whether anything is asked for beside the entropy of all rows."""
        return self.match_tokens is not None or bool(self.token_curve) or self.rows or self.companions

    def to_dict(self) -> dict[str, Any]:
        """The names and values of all choices, as stored in results.

        Returns:
            JSON values. Of what is measured beside eRank1 to eRank5, only what is asked for, so that a run of a
            version that did not know it can be continued.
        """
        stored = asdict(self)
        draws = self.match_tokens is not None or bool(self.token_curve) or AT_CONNECTOR_ROWS in self.metrics
        margin = MATCH_MARGIN in self.metrics
        for name, wanted in {"match_repeats": draws, "match_others": margin, "match_seed": draws or margin}.items():
            if not wanted:
                del stored[name]
        for name in ("match_tokens", "token_curve", "rows", "companions", "metrics", "patches"):
            if not stored[name]:
                del stored[name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}


@dataclass(frozen=True)
class TextConvention:
    """How text is measured. Defaults follow the paper where it speaks.

    Attributes:
        untrained_mode: Whether dropout is off (`eval`) or on (`train`) in the untrained model. The published
            code never calls `eval()`, so it leaves dropout on, which raises the untrained eRank of OPT by 70 %.
        max_tokens: Texts are cut there, or at the model's own limit if that is lower. 2048 in the published code.
        skip_first: Leading tokens that do not enter the covariance, 1 to leave out a BOS on which massive
            activations sit. The loss counts every predicted token all the same.
        centre: What is subtracted from the tokens, see `mmerank.states.spectrum.spectrum`.
        precision: Of the arithmetic, see `mmerank.states.spectrum.spectrum`.
        aggregate: A data set's eRank. `entropy`: exp of the mean entropy, Diff-eRank Def. 3.5,
            "Algorithm (a)"; `erank`: mean of the eRanks, Sec. 6.2, "Algorithm (b)".
        metrics: Measure also these, by their names in `mmerank metrics`, or of metrics of your own.

    Raises:
        ValueError: A value is not one of those named, or out of range.
    """

    untrained_mode: UntrainedMode = "eval"
    max_tokens: int = 2048
    skip_first: int = 0
    centre: Centre = "mean"
    precision: Precision = "float64"
    aggregate: Aggregate = "entropy"
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_choices(self)
        object.__setattr__(self, "metrics", in_order(self.metrics))
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2, got {self.max_tokens}")
        if self.skip_first < 0:
            raise ValueError(f"skip_first must not be negative, got {self.skip_first}")

    def to_dict(self) -> dict[str, Any]:
        """The names and values of all choices, as stored in results; metrics only where some are asked for."""
        stored = asdict(self)
        metrics = stored.pop("metrics")
        return {**stored, "metrics": list(metrics)} if metrics else stored


@dataclass(frozen=True)
class EncoderConvention:
    """How encoders are measured.

    Attributes:
        centre: What is subtracted from the rows, see `mmerank.states.spectrum.spectrum`.
        precision: Of the arithmetic, see `mmerank.states.spectrum.spectrum`.
        aggregate: A data set's eRank of a layer's rows. `entropy`: exp of the mean entropy, Diff-eRank Def. 3.5,
            "Algorithm (a)"; `erank`: mean of the eRanks, Sec. 6.2, "Algorithm (b)".

    Raises:
        ValueError: A value is not one of those named.
    """

    centre: Centre = "mean"
    precision: Precision = "float64"
    aggregate: Aggregate = "entropy"

    def __post_init__(self) -> None:
        _check_choices(self)

    def to_dict(self) -> dict[str, Any]:
        """The names and values of all choices, as stored in results."""
        return asdict(self)


@dataclass(frozen=True)
class GenerationConvention:
    """How a model writes, and how what it wrote is measured.

    Attributes:
        sequence: What stands before the response. `template`: the model's own conversation template up to where an
            answer begins; `bare`: BOS + image + instruction, or BOS + text.
        max_new_tokens: Most tokens of a response.
        sampling: `greedy`: the likeliest token; `sampled`: drawn.
        temperature: Of the drawing.
        top_p: Draw from the likeliest tokens that have this share of the probability together; 1 for all.
        sampling_seed: Of the drawing; with it and the example's id a response is the same in any order.
        stride: The eRank is taken each time so many rows have been added to the response.
        centre: What is subtracted from the rows, see `mmerank.states.spectrum.spectrum`.
        precision: Of the arithmetic, see `mmerank.states.spectrum.spectrum`.
        aggregate: A data set's eRank. `entropy`: exp of the mean entropy, Diff-eRank Def. 3.5,
            "Algorithm (a)"; `erank`: mean of the eRanks, Sec. 6.2, "Algorithm (b)".

    Raises:
        ValueError: A value is not one of those named, or out of range.
    """

    sequence: SequenceForm = "template"
    max_new_tokens: int = 128
    sampling: Sampling = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    sampling_seed: int = 0
    stride: int = 8
    centre: Centre = "mean"
    precision: Precision = "float64"
    aggregate: Aggregate = "entropy"

    def __post_init__(self) -> None:
        _check_choices(self)
        for name, least in {"max_new_tokens": LEAST_ROWS, "stride": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}; sampling 'greedy' draws nothing")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        for name in ("temperature", "top_p"):
            if self.sampling == "greedy" and (value := getattr(self, name)) != 1:
                raise ValueError(f"{name} {value} changes nothing of greedy tokens; sampling 'sampled' draws with it")

    def to_dict(self) -> dict[str, Any]:
        """The names and values of all choices, as stored in results; of the drawing only where something is drawn."""
        stored = asdict(self)
        if self.sampling == "greedy":
            del stored["temperature"], stored["top_p"], stored["sampling_seed"]
        return stored


# How rows of a picture are chosen; those that stand beside all others come first.
ALWAYS_BESIDE = ("random", "downsample")
KEPT_BY = (*ALWAYS_BESIDE, "norm", "attention", "diversity")


@dataclass(frozen=True)
class Kept:
    """One choice of a picture's rows.

    Attributes:
        by: How they are chosen.
        keep: Share of them that is kept.
        draw: Which of several draws; 0 where nothing is drawn.
    """

    by: str
    keep: float
    draw: int = 0

    @property
    def name(self) -> str:
        """As records have it."""
        return f"{self.by}@{self.keep:g}" + (f"#{self.draw}" if self.by == "random" else "")


@dataclass(frozen=True)
class PruneConvention:
    """Which rows of a picture are left out of what the LLM reads, and how what is left is measured.

    Attributes:
        sequence: What the LLM reads. `bare`: BOS + image + text, with text = instruction + " " + response;
            `template`: the model's own conversation template, the response as the answer.
        image_layout: See `Convention`.
        vision_point: Where eRank1 is read, see `Convention`.
        keep: Shares of the picture's rows that are kept, each above 0 and below 1.
        by: How they are chosen: `random`, `downsample`, `norm`, `attention`, `diversity`, and functions of your own,
            `FILE.py:FUNCTION` or `package.module:FUNCTION`. The first two stand beside whatever is asked for.
        draws: How often `random` draws.
        draw_seed: Of the draws; with it and the example's id they are the same in any order.
        attention_layer: Of the LLM, whose attention `attention` goes by: 1 is the first.
        neighbours: Most nearest neighbours of a row that are looked at for the k-NN overlap; fewer of few rows.
        own: What functions of your own are known by, a hash of the source of each.
        centre: What is subtracted from the rows, see `mmerank.states.spectrum.spectrum`.
        precision: Of the arithmetic, see `mmerank.states.spectrum.spectrum`.
        aggregate: A data set's eRank. `entropy`: exp of the mean entropy, Diff-eRank Def. 3.5,
            "Algorithm (a)"; `erank`: mean of the eRanks, Sec. 6.2, "Algorithm (b)".

    Raises:
        ValueError: A value is not one of those named, or out of range.
    """

    sequence: SequenceForm = "bare"
    image_layout: ImageLayout = "model"
    vision_point: str = "default"
    keep: tuple[float, ...] = (0.5, 0.25, 0.1)
    by: tuple[str, ...] = KEPT_BY
    draws: int = 5
    draw_seed: int = 0
    attention_layer: int = 2
    neighbours: int = 10
    own: tuple[str, ...] = ()
    centre: Centre = "mean"
    precision: Precision = "float64"
    aggregate: Aggregate = "entropy"

    def __post_init__(self) -> None:
        _check_choices(self)
        if not self.keep:
            raise ValueError("keep: no share of the rows is named")
        for share in self.keep:
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
                raise ValueError(f"keep: expected shares above 0 and below 1, as 0.25, got {share!r}")
        shares = sorted({float(f"{share:g}") for share in self.keep}, reverse=True)
        object.__setattr__(self, "keep", tuple(shares))
        for name in self.by:
            if name not in KEPT_BY and not _OWN.fullmatch(str(name)):
                raise ValueError(
                    f"unknown way to choose rows {name!r}{did_you_mean(str(name), KEPT_BY)}; known: "
                    f"{', '.join(KEPT_BY)}, FILE.py:FUNCTION and package.module:FUNCTION"
                )
        object.__setattr__(self, "by", tuple(dict.fromkeys([*ALWAYS_BESIDE, *self.by])))
        for name, least in {"draws": 1, "draw_seed": 0, "attention_layer": 1, "neighbours": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def choices(self) -> tuple[Kept, ...]:
        """All of them: by each way, of each share, each draw."""
        return tuple(
            Kept(by, keep, draw)
            for keep in self.keep
            for by in self.by
            for draw in range(self.draws if by == "random" else 1)
        )

    def to_dict(self) -> dict[str, Any]:
        """The names and values of all choices, as stored in results; of what is not asked for, nothing."""
        stored = asdict(self)
        if "attention" not in self.by:
            del stored["attention_layer"]
        if not self.own:
            del stored["own"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}


AnyConvention = Convention | TextConvention | EncoderConvention | GenerationConvention | PruneConvention


def all_choices(convention: AnyConvention, source: Mapping[str, Any]) -> dict[str, Any]:
    """All choices behind a result: how it was measured and, where the weights were quantised, `load_in`.

    Args:
        convention: How.
        source: Of the model.

    Returns:
        JSON values.

    Example:
        >>> all_choices(TextConvention(), {"load_in": "8bit"})["load_in"]
        '8bit'
    """
    quantised = {"load_in": source["load_in"]} if "load_in" in source else {}
    return {**convention.to_dict(), **quantised}


def loaded_as(source: Mapping[str, Any]) -> str:
    """How a model was loaded, of which one MODEL argument may have several ways: its dtype, and how it was quantised.

    Args:
        source: As in `run.json`.

    Returns:
        As in `float16, 8bit`; empty where that is not known.
    """
    return ", ".join(str(source[key]) for key in ("dtype", "load_in") if source.get(key))


def in_order(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Names of metrics, each once, in the order in which records have them.

    Args:
        metrics: In any order.

    Returns:
        Sorted.

    Raises:
        ValueError: One cannot be a name.

    Example:
        >>> in_order(("twonn_mle", "stable_rank", "twonn_mle"))
        ('stable_rank', 'twonn_mle')
    """
    for name in metrics:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"metrics: {name!r} cannot be a name; it has 1 to 80 letters, digits and any of _.-()")
    return tuple(sorted(set(metrics)))


# What a choice that is no word may be, by its default.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    type(None): ((int, type(None)), "a whole number, or None"),
    tuple: ((tuple, list), "a list"),
}


def _check_choices(convention: AnyConvention) -> None:
    hints = get_type_hints(type(convention))
    for field in fields(convention):
        known = get_args(hints[field.name]) if get_origin(hints[field.name]) is Literal else ()
        value = getattr(convention, field.name)
        if known and value not in known:
            raise ValueError(f"unknown {field.name} {value!r}; known: {', '.join(known)}")
        kinds, words = _KINDS[type(field.default)]
        if type(value) not in kinds:
            raise TypeError(f"{field.name}: expected {words}, got {value!r:.100}")
        if tuple in kinds:
            object.__setattr__(convention, field.name, tuple(value))
