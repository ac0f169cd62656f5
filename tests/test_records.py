from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmerank.records import Record, read_parts, to_frame, write_part


def record(example: str = "a", entropy: float = 1.0, **values: object) -> Record:
    given = {
        "model": "m",
        "example": example,
        "point": "llm",
        "input": "pair",
        "transform": "none",
        "n": 9,
        "d": 4,
        "entropy": entropy,
        "participation_ratio": 2.0,
        "top_share": 0.5,
        "text_cut": 0,
        "fingerprint": "f",
        "spectrum": np.array([0.75, 0.25], dtype=np.float32),
    }
    return Record(**{**given, **values})  # type: ignore[arg-type]


def fields(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in Record.__slots__ if name != "spectrum")


def test_round_trip(tmp_path: Path) -> None:
    written = [record("ünïcödé \x00\n", 0.1 + 0.2), record("b", d=3)]
    write_part(tmp_path / "1.parquet", written[1:])
    write_part(tmp_path / "0.parquet", written[:1])
    read = read_parts(tmp_path)
    assert [repr(fields(r)) for r in read] == [repr(fields(r)) for r in written]  # repr: NaN equals NaN
    assert read[0].spectrum.tolist() == [0.75, 0.25] and read[0].spectrum.dtype == np.float32


def test_arrays_and_missing_ones_come_back_as_they_were(tmp_path: Path) -> None:
    full: dict[str, Any] = {
        "matched": np.array([0.1, np.nan]),
        "curve": np.array([]),
        "mean_state": np.array([1, 2], dtype=np.float32),
        "entropy_text": 0.5,
        "strongest_row": 3,
        "strongest_token": "bos '<s>'",
    }
    write_part(tmp_path / "0.parquet", [record("a", **full), record("b")])
    a, b = read_parts(tmp_path)
    assert a.matched is not None and a.curve is not None and a.mean_state is not None
    assert np.array_equal(a.matched, [0.1, np.nan], equal_nan=True) and a.curve.shape == (0,)
    assert a.mean_state.dtype == np.float32 and a.curve.dtype == np.float64 and a.mean_state.tolist() == [1, 2]
    assert (a.entropy_text, a.strongest_row, a.strongest_token) == (0.5, 3, "bos '<s>'")
    assert b.matched is None and b.curve is None and b.mean_state is None and b.strongest_row == -1
    assert np.isnan(b.entropy_text)


def test_a_part_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    """One that was written before records told of rows."""
    write_part(tmp_path / "0.parquet", [record("a")])
    table = pq.read_table(tmp_path / "0.parquet")
    pq.write_table(table.select(table.column_names[:15]), tmp_path / "0.parquet")
    (old,) = read_parts(tmp_path)
    assert repr(fields(old)) == repr(fields(record("a")))
    assert table.column_names[14] == "predicted"


def test_a_part_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        write_part(tmp_path / "0.parquet", [record(n="many")])
    assert read_parts(tmp_path) == [] and not list(tmp_path.glob("*.parquet"))


def test_no_parts(tmp_path: Path) -> None:
    assert read_parts(tmp_path) == []


def test_frame_has_the_effective_rank_beside_the_entropy() -> None:
    frame = to_frame([record(entropy=np.log(3)), record(n=3, entropy=0)])
    assert frame["erank"].tolist() == pytest.approx([3, 1])
    assert frame["erank_fraction"].tolist() == pytest.approx([3 / 4, 1 / 2])
    assert frame["stable_rank"].tolist() == [2, 2]
    assert set(Record.__slots__) <= set(frame.columns)
