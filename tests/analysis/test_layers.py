"""eRank by layer: the mean over the examples that have such rows, with an interval over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmerank.analysis.intervals import layer_eranks
from mmerank.analysis.metrics.layers import ROWS, layer_names
from mmerank.analysis.statistics.bootstrap import Bootstrap


def records(n: int = 40) -> pd.DataFrame:
    """Three layers and the last one; the first example has no text rows, and rows of other inputs stand between."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "example": str(i),
            "point": point,
            "input": "pair",
            **dict(zip(ROWS.values(), rng.normal(2, 0.1, 3), strict=True)),
        }
        for i in range(n)
        for point in ("layer 10", "layer 2", "llm", "layer 0")
    ]
    frame = pd.DataFrame(rows)
    frame.loc[frame["example"] == "0", "entropy_text"] = math.nan
    others = frame.iloc[:3].assign(point="llm", input="image")
    return pd.concat([others, frame], ignore_index=True)


def test_means_over_the_examples_that_have_such_rows() -> None:
    frame = records()
    found = layer_eranks(frame).set_index(["point", "rows"])
    assert list(dict.fromkeys(found.index.get_level_values("point"))) == ["layer 0", "layer 2", "layer 10", "llm"]
    pairs = frame[frame["input"] == "pair"]
    for row in found.reset_index().to_dict("records"):
        point, rows = row["point"], row["rows"]
        entropies = pairs.loc[pairs["point"] == point, ROWS[rows]].dropna()
        assert row["value"] == pytest.approx(np.exp(entropies.mean())) and row["n"] == (39 if rows == "text" else 40)
        # A bootstrap of a mean of 40: about ± 1.96 standard errors, here of the logarithm.
        reach = 1.96 * entropies.std(ddof=1) / math.sqrt(len(entropies))
        assert math.log(row["high"] / row["low"]) == pytest.approx(2 * reach, rel=0.2)
        assert row["low"] < row["value"] < row["high"]
    by_mean = layer_eranks(frame, aggregate="erank").set_index(["point", "rows"])
    image = pairs.loc[pairs["point"] == "llm", "entropy_image"]
    assert by_mean.loc[("llm", "image"), "value"] == pytest.approx(np.exp(image).mean())


def test_one_example_has_no_interval() -> None:
    found = layer_eranks(records(1), bootstrap=Bootstrap(resamples=100))
    assert found["low"].isna().all() and found["value"].isna().sum() == 4  # its text rows


def test_none_where_no_layer_was_measured() -> None:
    frame = records()
    assert layer_eranks(frame[frame["point"] == "llm"]).empty
    assert layer_names(frame["point"]) == ["layer 0", "layer 2", "layer 10"]


def test_equal_rows_are_means_over_draws_of_the_examples_that_have_them() -> None:
    frame = records()
    rng = np.random.default_rng(1)
    draws: list[Any] = [rng.normal(1, 0.1, 4) for _ in range(len(frame))]
    draws = [np.full(4, math.nan) if name == "1" else of for name, of in zip(frame["example"], draws, strict=True)]
    frame = frame.assign(matched=draws)
    found = layer_eranks(frame).set_index(["point", "rows"])
    for point in ("layer 2", "llm"):
        here = (frame["point"] == point) & (frame["input"] == "pair") & (frame["example"] != "1")
        means = [of.mean() for of, wanted in zip(draws, here, strict=True) if wanted]
        assert found.loc[(point, "equal"), "value"] == pytest.approx(np.exp(np.mean(means)))
        assert found.loc[(point, "equal"), "n"] == 39 and found.loc[(point, "all"), "n"] == 40
    # Where the last layer alone was drawn, as by older runs, there is no such curve.
    last: list[Any] = [of if point == "llm" else None for of, point in zip(draws, frame["point"], strict=True)]
    assert "equal" not in set(layer_eranks(frame.assign(matched=last))["rows"])
