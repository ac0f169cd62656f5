from __future__ import annotations

import numpy as np
import pytest

from mmerank.runs.record import SCHEMA, SOMETIMES, Record, to_frame


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


def test_columns_are_the_fields_in_their_order() -> None:
    assert [*SCHEMA.names, *(of.name for of in SOMETIMES), "metrics"] == list(
        Record.__slots__
    )  # which are columns of their own


def test_frame_has_the_effective_rank_beside_the_entropy() -> None:
    frame = to_frame([record(entropy=np.log(3)), record(n=3, entropy=0)])
    assert frame["erank"].tolist() == pytest.approx([3, 1])
    assert frame["erank_fraction"].tolist() == pytest.approx([3 / 4, 1 / 2])
    assert frame["stable_rank"].tolist() == [2, 2]
    assert {*Record.__slots__} - {*(of.name for of in SOMETIMES), "metrics"} <= set(frame.columns)
