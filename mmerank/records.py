"""Record: one row per (example, measurement). Parquet parts, in and out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmerank.durable import whole


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
    ]
)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A table with a row per record, and the effective rank beside the entropy.

    Args:
        records: Any number of them.

    Returns:
        The columns of `Record`, and `erank`, `stable_rank`, and `erank_fraction` = eRank / min(n - 1, d).
    """
    frame: pd.DataFrame = _table(records).to_pandas()
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
        table = pq.read_table(part, schema=SCHEMA, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise type(error)(f"{part.name}: {error}") from error
    spectra = table.column("spectrum").combine_chunks()
    # Not through lists of Python numbers, which take ten times the memory.
    values, ends = spectra.values.to_numpy(), spectra.offsets.to_numpy()
    columns = table.drop_columns("spectrum").to_pydict()
    return [
        Record(**dict(zip(columns, row, strict=True)), spectrum=values[start:end])
        for row, start, end in zip(zip(*columns.values(), strict=True), ends[:-1], ends[1:], strict=True)
    ]


def read_examples(part: Path) -> set[tuple[str, str]]:
    """Model and example of the records in one Parquet part, without the rest of it.

    Args:
        part: The file.

    Returns:
        The pairs.
    """
    table = pq.read_table(part, columns=["model", "example"])
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _table(records: Iterable[Record]) -> pa.Table:
    rows = list(records)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Record)}
    return pa.table(columns, schema=SCHEMA)
