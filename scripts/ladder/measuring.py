"""Every metric of a rung: of its own pairs, of mismatched ones, of pictures that are more and more disturbed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

import mmerank
from mmerank.analysis.metrics.known import listed_metrics, metric
from mmerank.analysis.metrics.pairs import Statistics, nulls
from mmerank.analysis.metrics.pooled import Pooled
from mmerank.analysis.sample import PairSample, Sample
from mmerank.convention import MATCH_MARGIN, Convention
from mmerank.formulas.entry import OF_LAYERS, Entry
from mmerank.formulas.likelihood import match_margin
from mmerank.formulas.table import METRICS
from mmerank.inputs.example import Example
from mmerank.models.adapter import Adapter
from mmerank.runs.record import MATCHED, VALUE, to_frame
from scripts.ladder.training import Student
from scripts.ladder.truth import caption_losses, connector_rows
from scripts.train_tiny import Scene

# Of the pairs' own rows, so many everywhere; a picture has 36.
MATCHED_ROWS, REPEATS = 32, 2
# Not asked: what a run cannot take, and the two forms of MIR whose number is rounding where rows are fewer than the
# width, as they are here.
LEFT_OUT = (
    "erank_at_connector_rows",
    "lidar_delta1e-4",
    "linearity_layer0_1",
    "linearity_residual_layer0_1",
    "mir_fid_one_layer_fastmode",
    "mir_pooled_fastmode",
)
ASKED = tuple(name for name, of in METRICS.items() if name not in LEFT_OUT and of.kind != "likelihood")
UNDER_TRANSFORMS = ("all",)
# By how many places pictures are moved on, for mismatched pairs; margins of likelihood are against all of these.
SHIFT, OTHERS = 1, (1, 7)
STRENGTHS = {"noise": (40, 160), "rotate": (30, 90)}
TRANSFORMS = tuple(f"{kind}:{strength}" for kind, strengths in STRENGTHS.items() for strength in strengths)
COLUMNS = ("condition", "metric", "point", "input", "rows", "value", "null_p")
BATCH = 2048  # LLM positions
MISMATCHED = "mismatched"
MARGIN = MATCH_MARGIN

Row = dict[str, Any]


def values(records: pd.DataFrame, condition: str, *, nulls_too: bool = False) -> Iterator[Row]:
    """Every number that records hold, without intervals: the ladder's are over models.

    Args:
        records: Of one model under one transform.
        condition: What they are called.
        nulls_too: Whether statistics of pairs are also held against shuffled pairs.

    Yields:
        A row of the table.
    """
    for of in (metric("alignment"), metric("matched"), *listed_metrics(records)):
        rows = "matched" if of.name == "matched" or of.name.startswith(MATCHED) else "all"
        listed = of.name.startswith((MATCHED, VALUE))
        for point, sample in of.samples(records, "entropy"):
            null = nulls(sample) if nulls_too and isinstance(sample, PairSample) else []
            found = estimates(sample)
            for name, value, test in zip_longest(sample.quantities, found, null or [None] * len(found)):
                *where, kind = name.split("/")[1:] if listed else [name]
                place = ((point or "/".join(where)), kind) if listed else ("", "")
                called = of.name.removeprefix(MATCHED).removeprefix(VALUE) if listed else kind
                yield _row(condition, called, *place, rows, value, test and test["p"])


def estimates(sample: Sample) -> Sequence[float]:
    """The quantities of a sample; of pairs without what the jackknife would take, which is nearly all of the time."""
    of = sample.of_columns if isinstance(sample, PairSample) else None
    if isinstance(of, Statistics):
        return [_value(of.metric, arrays) for arrays in of.arrays(sample.columns)]
    if isinstance(of, Pooled) and of.metric.takes == OF_LAYERS:
        return [
            _value(of.metric, [[tuple(map(np.concatenate, zip(*kept, strict=True))) for kept in layers]])
            for layers in of.places
        ]
    return list(map(float, sample.estimates))


def _value(of: Entry, arrays: Sequence[Any]) -> float:
    try:
        return float(of.function(*arrays))
    except ValueError:  # states of two widths, too few rows
        return math.nan


def _row(*given: Any) -> Row:
    return dict(zip(COLUMNS, (*given, *[None] * (len(COLUMNS) - len(given))), strict=True))


def mismatched(pairs: Sequence[Example], shift: int) -> list[Example]:
    """The same texts, each with the picture of the example so many places on."""
    return [replace(pair, image=pairs[(i + shift) % len(pairs)].image) for i, pair in enumerate(pairs)]


def measured(student: Student, given: Sequence[Scene]) -> pd.DataFrame:
    """All numbers of a rung.

    Args:
        student: The model.
        given: Held-out scenes that the truth is not asked of.

    Returns:
        The columns of `COLUMNS`; `condition` is `own`, `mismatched` or a transform.
    """
    pairs = [scene.example() for scene in given]
    found = [*of_adapter(student.adapter, pairs)]
    # As many rows as the own pairs have.
    found += aligned(student.adapter, mismatched(pairs, SHIFT), MISMATCHED, Convention())
    changed = _quiet(
        mmerank.perturb, student.adapter, pairs, TRANSFORMS, metrics=UNDER_TRANSFORMS, batch_tokens=BATCH
    )
    frame = to_frame(changed.records, spectrum=False)
    for transform, records in frame.groupby("transform", sort=False):
        if transform in TRANSFORMS:
            found += values(records, str(transform))
    found += margins(student, given)
    return table(found)


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as they are stored: words as categories, numbers in single precision."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    words = list(COLUMNS[:5])
    return frame.astype({**dict.fromkeys(words, "category"), **dict.fromkeys(COLUMNS[5:], "float32")})


def of_adapter(adapter: Adapter, pairs: Sequence[Example]) -> Iterator[Row]:
    """Every metric of a model's own pairs.

    Args:
        adapter: The model, or an untrained twin.
        pairs: With pictures.

    Returns:
        Rows of the table.
    """
    matched = Convention(match_tokens=MATCHED_ROWS, match_repeats=REPEATS)
    return aligned(adapter, pairs, "own", matched, nulls_too=True)


def aligned(
    adapter: Adapter, pairs: Sequence[Example], condition: str, convention: Convention, *, nulls_too: bool = False
) -> Iterator[Row]:
    """What `mmerank align` measures, at every layer.

    Args:
        adapter: The model.
        pairs: With pictures.
        condition: What the numbers are called.
        convention: Whether equally many rows, too.
        nulls_too: See `values`.

    Returns:
        Rows of the table.
    """
    result = _quiet(
        mmerank.align, adapter, pairs, convention=convention, layers="all", metrics=ASKED, batch_tokens=BATCH
    )
    return values(to_frame(result.records + result.layer_records, spectrum=False), condition, nulls_too=nulls_too)


def margins(student: Student, given: Sequence[Scene]) -> Iterator[Row]:
    """The loss of the response under its own picture less that under others', which are the same in every model.

    Args:
        student: The model.
        given: Scenes.

    Yields:
        Of the own pairs one row; of mismatched ones the same with the next scene in the place of the own.
    """
    rows = connector_rows(student, given)
    n = len(given)
    losses = {k: caption_losses(student, given, rows[(np.arange(n) + k) % n]) for k in (0, *OTHERS)}
    for condition, own in (("own", 0), (MISMATCHED, SHIFT)):
        others = [losses[k] for k in OTHERS if k != own]
        yield _row(condition, MARGIN, "", "", "all", match_margin(losses[own], np.stack(others, axis=1)))


def _quiet(call: Any, *arguments: Any, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **more)
