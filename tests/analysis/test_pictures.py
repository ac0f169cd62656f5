"""eRank by picture of an example: means over those that have so many, and examples as what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.metrics.pictures import METRIC
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals

PLACES = {"erank1": ("vision", "image"), "erank2": ("connector", "image"), "erank5": ("llm", "pair")}


def records(n: int = 60) -> pd.DataFrame:
    """Three or four pictures, those of an example all alike; every third example has one, and no such numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for k, (point, kind) in enumerate([*PLACES.values(), ("llm", "image")]):
            own = np.full(2 + i % 3, rng.normal(2 + k, 0.2)) if i % 3 and k < 3 else None
            rows.append({"example": f"{i:03}", "point": point, "input": kind, "entropy_pictures": own})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("aggregate", ["entropy", "erank"])
def test_by_place_and_over_all(aggregate: str) -> None:
    frame = records()
    ((_, sample),) = METRIC.samples(frame, aggregate)  # type: ignore[arg-type]
    value = dict(zip(sample.quantities, sample.estimates, strict=True))
    counts = dict(zip(sample.quantities, sample.counts or (), strict=True))

    def mean(entropies: list[float]) -> float:
        return math.exp(np.mean(entropies)) if aggregate == "entropy" else float(np.mean(np.exp(entropies)))

    for label, (point, kind) in PLACES.items():
        here = frame[(frame["point"] == point) & (frame["input"] == kind)]["entropy_pictures"].dropna().tolist()
        assert value[f"each picture/{label}"] == pytest.approx(mean([x for of in here for x in of]))
        assert counts[f"each picture/{label}"] == sample.n == 40
        for i, left in enumerate((40, 40, 40, 20)):
            assert value[f"picture {i + 1}/{label}"] == pytest.approx(mean([of[i] for of in here if len(of) > i]))
            assert counts[f"picture {i + 1}/{label}"] == left
    assert quantity("picture 3/erank5").label == "eRank5, picture 3"


def test_examples_are_drawn_and_not_pictures() -> None:
    ((_, sample),) = METRIC.samples(records(600), "entropy")
    low, high = sample_intervals(sample, Bootstrap())["each picture/erank1"]
    # Pictures of an example are all alike, so there are 400 draws, of weights 3 and 4, and not 1400.
    assert math.log(high / low) == pytest.approx(2 * 1.96 * 0.2 * math.sqrt((9 + 16) * 200) / 1400, rel=0.15)


def test_nothing_where_no_example_has_several() -> None:
    frame = records()
    assert not list(METRIC.samples(frame.assign(entropy_pictures=None), "entropy"))
    assert not list(METRIC.samples(frame.drop(columns="entropy_pictures"), "entropy"))
