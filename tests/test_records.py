from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
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
