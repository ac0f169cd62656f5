"""eRank through the layers of the LLM: of all rows of the pair, of the image's, of the text's, of equally many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, of_pictures, of_those_there
from mmerank.convention import Aggregate

LAYER = "layer "
# What the rows are called -> their entropy in a record.
ROWS = {"all": "entropy", "image": "entropy_image", "text": "entropy_text"}
# Rows of the pair drawn at random, as many everywhere, where that was asked for.
EQUAL = "equal"


def _named(name: str) -> Quantity | None:
    point, slash, rows = name.partition("/")
    if not slash or rows not in (*ROWS, EQUAL) or not (point == "llm" or point.startswith(LAYER)):
        return None
    return Quantity(name, f"{point}, {rows} rows", differs="log")


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """The pair's eRank at each layer that was measured, by the rows that it is taken of."""
    points = layer_names(records["point"])
    if not points or not of_pictures(records):
        return
    pairs = records[(records["input"] == "pair") & records["point"].isin([*points, "llm"])]
    drawn = were_drawn(pairs[pairs["point"].isin(points)])
    yield "", by_rows(pairs, [*points, "llm"], ROWS, aggregate, drawn=drawn)


def were_drawn(records: pd.DataFrame) -> bool:
    """Whether equally many rows were drawn for any of these records."""
    return "matched" in records and bool(records["matched"].notna().any())


def by_rows(
    records: pd.DataFrame, points: Sequence[str], kinds: Mapping[str, str], aggregate: Aggregate, *, drawn: bool
) -> Sample:
    """The eRanks at hook points, by the rows that they are taken of.

    Args:
        records: One per example and hook point.
        points: The hook points, in order.
        kinds: What the rows are called, and the column of their entropy.
        aggregate: How eRanks of examples become one of the data set.
        drawn: Whether equally many rows stand beside; an example that has too few is not among them.

    Returns:
        Quantities `POINT/ROWS`.
    """
    if drawn:
        kinds = {**kinds, EQUAL: f"entropy_{EQUAL}"}
        records = records.assign(**{kinds[EQUAL]: list(map(_mean_of_draws, records["matched"]))})
    wide = records.pivot(index="example", columns="point", values=[*kinds.values()]).sort_index()
    names = [(point, rows) for point in points for rows in kinds]
    entropies = wide[[(kinds[rows], point) for point, rows in names]].to_numpy(dtype=np.float64)
    columns, of_means = of_those_there(entropies, aggregate)
    counts = tuple(map(int, np.isfinite(entropies).sum(axis=0)))
    quantities = tuple(f"{point}/{rows}" for point, rows in names)
    return Sample(quantities, tuple(wide.index), columns, of_means, counts)


def _mean_of_draws(drawn: Floats | None) -> float:
    """Of the entropies of rows that were drawn; NaN where none could be."""
    return float(np.nanmean(drawn)) if drawn is not None and np.isfinite(drawn).any() else math.nan


def layer_names(points: pd.Series[str]) -> list[str]:
    """The hook points that are layers, from the first on.

    Args:
        points: Hook points of records.

    Returns:
        Names as in `layer 12`, each once.
    """
    found = {str(point) for point in points.unique() if str(point).startswith(LAYER)}
    return sorted(found, key=lambda point: int(point.removeprefix(LAYER)))


METRIC = Metric("layers", "eRank of the pair by layer", (), _samples, follows_rows=True, named=_named, own_place=True)
