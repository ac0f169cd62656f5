"""The participation ratio of the spectrum, 1 / Σ λ², at the places of eRank1 to eRank5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Sample, of_pictures, wide
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS

_SEES: dict[str, Literal["image", "text", "pair"]] = {"image": "image", "text": "text", "pair": "pair"}
_QUANTITIES = tuple(
    Quantity(
        f"participation_ratio{label[-1]}",
        f"participation ratio, {point} / {kind}",
        f"PR{label[-1]}",
        differs="log",
        sees=_SEES[kind],
    )
    for label, (point, kind) in ERANKS.items()
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Mean participation ratio over examples, at the five places."""
    if of_pictures(records):
        there = set(records[["point", "input"]].drop_duplicates().itertuples(index=False, name=None))
        labels = [label for label, where in ERANKS.items() if where in there]
        values = wide(records, ["point", "input"], [ERANKS[of] for of in labels], value="participation_ratio")
        names = tuple(f"participation_ratio{label[-1]}" for label in labels)
        yield "", Sample(names, tuple(values.index), values.to_numpy(dtype=float), lambda means: means)


METRIC = Metric(
    "participation_ratio", "Participation ratio", _QUANTITIES, _samples, follows_rows=True, own_place=True
)
