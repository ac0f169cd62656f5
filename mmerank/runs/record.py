"""Record: one row per (example, measurement). Tables of them, in and out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One measurement of one example.

    Attributes:
        model: Name of the model.
        example: Id of the example.
        point: Hook point: `vision`, `connector` or `llm`.
        input: What the model was fed: `image`, `text` or `pair`.
        transform: What was done to the picture before; `none` for nothing.
        n: Number of tokens (rows of the covariance).
        d: Width of the hidden states.
        entropy: Matrix entropy in nats, float64. The effective rank is its exp.
        participation_ratio: 1 / Σ λ².
        top_share: Largest eigenvalue; its reciprocal is the stable rank.
        text_cut: Text tokens cut off to fit the model's limit.
        fingerprint: Of the model's weights and the convention.
        spectrum: Eigenvalues in descending order, sum 1, float32, at most min(n, d) of them.
        loss: Mean negative log-likelihood of the predicted tokens, nats; NaN where it was not computed.
        predicted: Number of predicted tokens behind the loss.
        matched: Entropies of random subsets of as many rows as the convention says, one per repeat, NaN where a
            subset has none; empty where there are fewer rows. None where not asked for, as are the next two.
        curve: Mean entropy of random subsets, for each number of rows that the convention names; NaN where there
            are fewer rows.
        mean_state: Mean of the image and text rows, (d,), float32.
        entropy_image: Entropy of the image rows alone; NaN where there are none, or where not asked for, as below.
        entropy_text: Of the text rows alone.
        entropy_modality: Of image and text rows, without BOS and template.
        strongest_row: Row of the covariance that lies furthest from the centre; -1 where not asked for.
        strongest_token: What stands there.
        entropy_without_strongest: Entropy of the others.
        decisive_row: Row whose removal changes the collision entropy (Rényi's of order 2) most.
        decisive_token: What stands there.
        entropy_without_decisive: Entropy of the others.
        text_digest: Hash of the example's text, see `mmerank.inputs.contents.Content`; empty in records of earlier
            versions, as are the next two.
        picture_digest: Hash of its picture's pixels; empty where no picture was read.
        picture_stamp: Size and time of modification of its file, or commit and row; empty where there is none.
        embedding: Of an encoder's last layer: what the picture or text is embedded as, (e,), float32. None elsewhere.
        rows_image: Some of the image rows of a pair, chosen by the example's id, (k, d) as one list, float32, where
            pooled metrics are asked for.
        rows_text: The same of its text rows, or of a text.
        entropy_pictures: Of an example with several pictures, where their rows are measured (`vision`, `connector`,
            and the `pair` at the `llm`): entropy of each one's rows alone, in the order of the pictures, NaN where it
            has none; None of anything else.
        contributions: What each row adds to the entropy, see `mmerank.states.leave_one_out`, (n,), nats, where
            patches are asked for; NaN where the others have no entropy, empty where there are too many rows; None
            elsewhere, as are the next two.
        row_tokens: What stands in each row of these; empty texts for rows of the picture.
        places: Where its rows of the picture lie, four edges each as one list, float32, see
            `mmerank.models.places.Places`; empty where that is not known.
        unplaced: Why it is not known.
        stride: Of a response: how many rows were added each time for the next of these; 0 of anything else.
        trajectory: Entropies of its first rows, of twice as many, and so on.
        logit_entropies: Of a response: entropy of the distribution that each of its tokens was chosen from, nats.
        written: The response.
        span_share: Of an update of the residual stream: how much of all its rows, of the image's and of the text's
            lies in the span of what they are added to, see `mmerank.states.subspaces.Inside`, (3,), NaN where there
            are no such rows; None of anything else, as are the next four.
        span_chance: What rows of random directions have.
        overlap: Of the two spans.
        overlap_chance: What random spans have.
        norm_ratio: Mean length of the update's rows against those that they are added to.
        deviation: How far input and updates of the block together are from what leaves it, in the row that is
            furthest, see `mmerank.models.updates.Added`; NaN of anything but an update.
        kept: Of rows of a picture that were kept while others were left out, at the LLM: which of them, ascending;
            None of anything else. With these rows come the next five, where nothing is left out `loss` alone.
        divergence: Kullback-Leibler divergence of the distributions over the next token from those with all rows,
            mean over the tokens of the response, nats.
        agreement: Share of these tokens of which both distributions have the same likeliest one.
        neighbours: Mean share of a row's nearest neighbours among the kept rows that are the same with all rows.
        entropy_before: Of the same rows, from the pass with all rows.
        participation_before: Their participation ratio there.
        metrics: What else was asked for, by the name of its column (`VALUE` and the name of the metric, `MATCHED` and
            the name where rows were drawn to match): the number, why there is none, or None where it is not of these
            rows.
    """

    model: str
    example: str
    point: str
    input: str
    transform: str
    n: int
    d: int
    entropy: float
    participation_ratio: float
    top_share: float
    text_cut: int
    fingerprint: str
    spectrum: NDArray[np.float32]
    loss: float = math.nan
    predicted: int = 0
    matched: NDArray[np.float64] | None = None
    curve: NDArray[np.float64] | None = None
    mean_state: NDArray[np.float32] | None = None
    entropy_image: float = math.nan
    entropy_text: float = math.nan
    entropy_modality: float = math.nan
    strongest_row: int = -1
    strongest_token: str = ""
    entropy_without_strongest: float = math.nan
    decisive_row: int = -1
    decisive_token: str = ""
    entropy_without_decisive: float = math.nan
    text_digest: str = ""
    picture_digest: str = ""
    picture_stamp: str = ""
    embedding: NDArray[np.float32] | None = None
    rows_image: NDArray[np.float32] | None = None
    rows_text: NDArray[np.float32] | None = None
    entropy_pictures: NDArray[np.float64] | None = None
    contributions: NDArray[np.float64] | None = None
    row_tokens: Sequence[str] | None = None
    places: NDArray[np.float32] | None = None
    unplaced: str = ""
    stride: int = 0
    trajectory: NDArray[np.float64] | None = None
    logit_entropies: NDArray[np.float64] | None = None
    written: str = ""
    span_share: NDArray[np.float64] | None = None
    span_chance: NDArray[np.float64] | None = None
    overlap: NDArray[np.float64] | None = None
    overlap_chance: NDArray[np.float64] | None = None
    norm_ratio: NDArray[np.float64] | None = None
    deviation: float = math.nan
    kept: NDArray[np.int32] | None = None
    divergence: float = math.nan
    agreement: float = math.nan
    neighbours: float = math.nan
    entropy_before: float = math.nan
    participation_before: float = math.nan
    metrics: Mapping[str, float | str | None] = field(default_factory=dict)


# Columns of metrics are open: a run has those that it states, behind the others, and then NO_VALUE, which says why a
# number is missing, as JSON by column.
VALUE, MATCHED = "metric:", "matched:"
NO_VALUE = "no_value"

# Behind those of SCHEMA, in parts with a record of several pictures alone.
PICTURES = pa.field("entropy_pictures", pa.list_(pa.float64()))
# Behind these, in parts of runs that were asked for patches.
PATCHES = (
    pa.field("contributions", pa.list_(pa.float64())),
    pa.field("row_tokens", pa.list_(pa.string())),
    pa.field("places", pa.list_(pa.float32())),
    pa.field("unplaced", pa.string()),
)
# And of what a model wrote.
WRITTEN = (
    pa.field("stride", pa.int32()),
    pa.field("trajectory", pa.list_(pa.float64())),
    pa.field("logit_entropies", pa.list_(pa.float64())),
    pa.field("written", pa.string()),
)
# And of runs that were asked for what blocks add: a number of all rows, of image rows and of text rows.
OF_ROWS = ("all", "image", "text")
INSIDE = (
    *(
        pa.field(name, pa.list_(pa.float64()))
        for name in ("span_share", "span_chance", "overlap", "overlap_chance", "norm_ratio")
    ),
    pa.field("deviation", pa.float64()),
)
# And of rows that were kept while others were left out.
KEPT = (
    pa.field("kept", pa.list_(pa.int32())),
    *(
        pa.field(name, pa.float64())
        for name in ("divergence", "agreement", "neighbours", "entropy_before", "participation_before")
    ),
)
# Columns that parts have where some record needs them.
AS_NEEDED = (PICTURES, *PATCHES, *WRITTEN, *INSIDE, *KEPT)

# In the order of the fields. Later versions may add some at the end, see `mmerank.runs.parts.VERSIONS`.
SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("example", pa.string()),
        ("point", pa.string()),
        ("input", pa.string()),
        ("transform", pa.string()),
        ("n", pa.int32()),
        ("d", pa.int32()),
        ("entropy", pa.float64()),
        ("participation_ratio", pa.float64()),
        ("top_share", pa.float64()),
        ("text_cut", pa.int32()),
        ("fingerprint", pa.string()),
        ("spectrum", pa.list_(pa.float32())),
        ("loss", pa.float64()),
        ("predicted", pa.int32()),
        ("matched", pa.list_(pa.float64())),
        ("curve", pa.list_(pa.float64())),
        ("mean_state", pa.list_(pa.float32())),
        ("entropy_image", pa.float64()),
        ("entropy_text", pa.float64()),
        ("entropy_modality", pa.float64()),
        ("strongest_row", pa.int32()),
        ("strongest_token", pa.string()),
        ("entropy_without_strongest", pa.float64()),
        ("decisive_row", pa.int32()),
        ("decisive_token", pa.string()),
        ("entropy_without_decisive", pa.float64()),
        ("text_digest", pa.string()),
        ("picture_digest", pa.string()),
        ("picture_stamp", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("rows_image", pa.list_(pa.float32())),
        ("rows_text", pa.list_(pa.float32())),
    ]
)
_NO_SPECTRUM: NDArray[np.float32] = np.zeros(0, np.float32)
_CONTENT = ("text_digest", "picture_digest", "picture_stamp")
_WITHOUT_SPECTRUM = SCHEMA.remove(SCHEMA.get_field_index("spectrum"))


def open_fields(metrics: Sequence[str], *, matched: bool) -> list[pa.Field]:
    """The columns of metrics.

    Args:
        metrics: Names.
        matched: Whether they are also taken of equally many rows.

    Returns:
        Columns and their types; none without metrics.
    """
    fronts = (VALUE, MATCHED) if matched else (VALUE,)
    named = [pa.field(f"{front}{name}", pa.float64()) for front in fronts for name in metrics]
    return [*named, pa.field(NO_VALUE, pa.string())] if named else []


def fields_for(records: Iterable[Record]) -> list[pa.Field]:
    """The columns that records need beside those that all have: none of plain pairs and texts."""
    rows = list(records)
    groups = {
        "entropy_pictures": (PICTURES,),
        "contributions": PATCHES,
        "trajectory": WRITTEN,
        "span_share": INSIDE,
        "kept": KEPT,
    }
    needed = [name for name in groups if any(getattr(record, name) is not None for record in rows)]
    return [of for name in needed for of in groups[name]]


def to_frame(records: Iterable[Record], *, spectrum: bool = True) -> pd.DataFrame:
    """A table with a row per record, and the effective rank beside the entropy.

    Args:
        records: Any number of them.
        spectrum: Whether the spectra come along, which are most of the memory.

    Returns:
        The columns of `Record`, and `erank`, `stable_rank`, and `erank_fraction` = eRank / min(n - 1, d).
    """
    rows = list(records)
    # In the order of a run's parts.
    named = sorted({name for row in rows for name in row.metrics}, key=lambda name: (name.startswith(MATCHED), name))
    added = [*(pa.field(name, pa.float64()) for name in named), *([pa.field(NO_VALUE, pa.string())] if named else [])]
    columns = [*(SCHEMA if spectrum else _WITHOUT_SPECTRUM), *fields_for(rows), *added]
    return frame_of(table_of(rows, pa.schema(columns)))


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The same of a table.

    Args:
        table: In the columns of `SCHEMA`, with or without the spectra, and those of metrics.

    Returns:
        As from `to_frame`.
    """
    frame: pd.DataFrame = table.to_pandas()
    frame.insert(8, "erank", np.exp(frame["entropy"]))
    frame.insert(9, "erank_fraction", frame["erank"] / np.minimum(frame["n"] - 1, frame["d"]))
    frame.insert(12, "stable_rank", 1 / frame["top_share"])
    return frame


def complete(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """A table with all columns of a schema.

    Args:
        table: Of records of this version or an earlier one.
        schema: Some columns of `SCHEMA`, and of metrics.

    Returns:
        The table; of columns that it lacks, the default of `Record`.
    """
    defaults = {of.name: of.default for of in fields(Record)}
    columns = [
        table[of.name]
        if of.name in table.column_names
        else pa.chunked_array([pa.array([defaults[of.name]] * table.num_rows, of.type)])
        for of in schema
    ]
    return pa.table(columns, schema=schema)


def records_of(table: pa.Table, model: str | None = None) -> list[Record]:
    """The records that a table holds.

    Args:
        table: Columns of `SCHEMA`; of what it lacks, records have the default, and an empty spectrum.
        model: Only this one's.

    Returns:
        The records, in the order of the rows.
    """
    if model is not None:
        table = table.filter(pc.equal(table["model"], model))
    given = dict(zip(table.column_names, map(_values, table.columns), strict=True))
    given.setdefault("spectrum", repeat(_NO_SPECTRUM, table.num_rows))
    if NO_VALUE in given:
        named = [name for name in given if name.startswith((VALUE, MATCHED))]
        numbers = zip(*(given.pop(name) for name in named), strict=True)
        given["metrics"] = [
            dict(zip(named, row, strict=True)) | (json.loads(why) if why else {})
            for row, why in zip(numbers, given.pop(NO_VALUE), strict=True)
        ]
    return [Record(**dict(zip(given, row, strict=True))) for row in zip(*given.values(), strict=True)]


def contents_of(table: pa.Table) -> dict[str, list[str]]:
    """What the examples in a table are known by, see `mmerank.inputs.contents.Content`.

    Args:
        table: Of records; those of earlier versions do not say.

    Returns:
        By example.
    """
    if not set(_CONTENT) <= set(table.column_names):
        return {}
    columns = [table[name].to_pylist() for name in ("example", *_CONTENT)]
    return {example: known for example, *known in zip(*columns, strict=True)}


def _values(column: pa.ChunkedArray) -> Iterable[Any]:
    """Lists as numpy arrays of the column's own type, without a Python object for each number."""
    values: Iterable[Any] = column.to_pandas() if pa.types.is_list(column.type) else column.to_pylist()
    return values


def table_of(records: Iterable[Record], schema: pa.Schema = SCHEMA) -> pa.Table:
    """A row for each record.

    Args:
        records: Any number.
        schema: Columns and their types.

    Returns:
        The table.
    """
    rows = list(records)
    return pa.table({name: [_value(row, name) for row in rows] for name in schema.names}, schema=schema)


def _value(row: Record, column: str) -> Any:
    if column == NO_VALUE:
        missing = {name: of for name, of in row.metrics.items() if isinstance(of, str)}
        return json.dumps(missing, sort_keys=True) if missing else ""
    if column.startswith((VALUE, MATCHED)):
        number = row.metrics.get(column)
        return None if isinstance(number, str) else number
    return getattr(row, column)
