"""Record: one row per (example, measurement). Parquet parts, in and out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmerank.durable import whole
from mmerank.files import opened


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
    ]
)
_WITHOUT_SPECTRUM = SCHEMA.remove(SCHEMA.get_field_index("spectrum"))


def to_frame(records: Iterable[Record], *, spectrum: bool = True) -> pd.DataFrame:
    """A table with a row per record, and the effective rank beside the entropy.

    Args:
        records: Any number of them.
        spectrum: Whether the spectra come along, which are most of the memory.

    Returns:
        The columns of `Record`, and `erank`, `stable_rank`, and `erank_fraction` = eRank / min(n - 1, d).
    """
    frame: pd.DataFrame = _table(records, SCHEMA if spectrum else _WITHOUT_SPECTRUM).to_pandas()
    frame.insert(8, "erank", np.exp(frame["entropy"]))
    frame.insert(9, "erank_fraction", frame["erank"] / np.minimum(frame["n"] - 1, frame["d"]))
    frame.insert(12, "stable_rank", 1 / frame["top_share"])
    return frame


def write_part(path: Path, records: Iterable[Record]) -> None:
    """Write a Parquet file that is either whole or not there.

    Args:
        path: Where; its folder exists.
        records: What.
    """
    with whole(path) as unfinished:
        pq.write_table(_table(records), unfinished, compression="zstd", write_page_checksum=True)


def read_parts(folder: Path, *, model: str | None = None) -> list[Record]:
    """All records in the Parquet parts of a folder, in the order of their names.

    An example of a model counts once: what a later part says of it is left out.

    Args:
        folder: May be empty.
        model: Only this one's.

    Returns:
        The records.
    """
    records: list[Record] = []
    known: set[tuple[str, str]] = set()
    for part in sorted(folder.glob("*.parquet")):
        found = [
            record
            for record in read_part(part)
            if model in (None, record.model) and (record.model, record.example) not in known
        ]
        known.update((record.model, record.example) for record in found)
        records += found
    return records


def read_part(part: Path) -> list[Record]:
    """The records in one Parquet part.

    Args:
        part: The file.

    Returns:
        The records.

    Raises:
        ArrowException: The part is damaged; names it.
    """
    try:
        with opened(part) as file:
            table = pq.read_table(file, schema=SCHEMA, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise type(error)(f"{part.name}: {error}") from error
    columns = {name: _values(table[name]) for name in table.column_names}
    # A part of an earlier version lacks columns: they are null, and the record has its default.
    return [
        Record(**{name: value for name, value in zip(columns, row, strict=True) if value is not None})
        for row in zip(*columns.values(), strict=True)
    ]


def read_examples(part: Path) -> set[tuple[str, str]]:
    """Model and example of the records in one Parquet part, without the rest of it.

    Args:
        part: The file.

    Returns:
        The pairs.
    """
    with opened(part) as file:
        table = pq.read_table(file, columns=["model", "example"])
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _values(column: pa.ChunkedArray) -> Iterable[Any]:
    """Lists as numpy arrays of the column's own type, without a Python object for each number."""
    values: Iterable[Any] = column.to_pandas() if pa.types.is_list(column.type) else column.to_pylist()
    return values


def _table(records: Iterable[Record], schema: pa.Schema = SCHEMA) -> pa.Table:
    rows = list(records)
    return pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)
