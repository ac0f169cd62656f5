"""What attention and MLP of each block add to the residual stream: eRank, and where it lies against its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.layers import ROWS
from mmerank.analysis.sample import Floats, Sample, mean_of_those_there, of_pictures
from mmerank.convention import Aggregate
from mmerank.eranks import UPDATES, update_at
from mmerank.runs.record import OF_ROWS

# Numbers of an update beside its eRank, by the name of their column: name, words.
NUMBERS = {
    "span_share": ("share", "share in the span of its input"),
    "span_chance": ("share_by_chance", "share by chance"),
    "overlap": ("overlap", "overlap of the spans"),
    "overlap_chance": ("overlap_by_chance", "overlap by chance"),
    "norm_ratio": ("norm_ratio", "length against its input"),
}
ERANK = "erank"
_ENDS = ("trained", "untrained")
# All of them in words.
OF_UPDATES = {ERANK: "eRank of the update", **dict(NUMBERS.values())}


def _named(name: str) -> Quantity | None:
    point, *rest = name.split("/")
    if update_at(point) is None or len(rest) != 2 or rest[0] not in (*OF_ROWS, *_ENDS) or rest[1] not in OF_UPDATES:
        return None
    rows, number = rest
    of = f"{rows} rows" if rows in OF_ROWS else rows
    return Quantity(
        name,
        f"{point}, {of}: {OF_UPDATES[number]}",
        decimals=2 if number == ERANK else 3,
        differs="log" if number == ERANK else "value",
        sees="text" if rows in _ENDS else "pair",
    )


def points_in(records: pd.DataFrame) -> list[str]:
    """The updates that records are of, block by block.

    Args:
        records: As from `mmerank.runs.record.to_frame`.

    Returns:
        Names of hook points, each once.
    """
    found = {point: of for point in map(str, records["point"].unique()) if (of := update_at(point))}
    return sorted(found, key=lambda point: (found[point][1], UPDATES.index(found[point][0])))


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Every number of every update; of pairs by rows, of texts of the trained model and its untrained twins."""
    points = points_in(records)
    if not points:
        return
    if of_pictures(records):
        here = records[(records["input"] == "pair") & records["point"].isin(points)]
        yield "", _sample(_by_rows(here, points), aggregate)
    elif set(records["input"]) == {"text"}:
        yield "", _sample(_by_end(records[records["point"].isin(points)], points), aggregate)


# By name of a quantity: which of several columns are averaged before all else (twins), (n, k) each, of one index.
_Columns = dict[str, pd.DataFrame]


def _by_rows(here: pd.DataFrame, points: Sequence[str]) -> _Columns:
    found: _Columns = {}
    for i, rows in enumerate(OF_ROWS):
        named = {ERANK: here[ROWS[rows]], **{name: _of(here[column], i) for column, (name, _) in NUMBERS.items()}}
        for number, values in named.items():
            wide = here.assign(value=values).pivot(index="example", columns="point", values="value").sort_index()
            found |= {f"{point}/{rows}/{number}": wide[[point]] for point in points}
    return _in_order(found, points, OF_ROWS)


def _by_end(here: pd.DataFrame, points: Sequence[str]) -> _Columns:
    twins = here["model"].str.startswith(TWIN)
    common = here.groupby(["example", "point"])["model"].transform("nunique") == here["model"].nunique()
    named = {ERANK: here["entropy"], **{name: _of(here[column], 0) for column, (name, _) in NUMBERS.items()}}
    found: _Columns = {}
    for end, which in zip(_ENDS, (~twins, twins), strict=True):
        for number, values in named.items():
            some = here.assign(value=values)[which & common]
            wide = some.pivot(index="example", columns=["point", "model"], values="value").sort_index()
            found |= {f"{point}/{end}/{number}": pd.DataFrame(wide[point]) for point in points if point in wide}
    return _in_order(found, points, _ENDS)


def _of(lists: pd.Series[Any], place: int) -> pd.Series[float]:
    return lists.map(lambda values: values[place])


def _in_order(found: _Columns, points: Sequence[str], of: Sequence[str]) -> _Columns:
    names = (f"{point}/{rows}/{number}" for point in points for rows in of for number in OF_UPDATES)
    return {name: found[name] for name in names if name in found}


def _sample(found: _Columns, aggregate: Aggregate) -> Sample:
    """Means over examples; of eRanks as the aggregate says, and of twins the mean of what each of them has."""
    logs = np.array([name.endswith(f"/{ERANK}") for name in found])
    widths = [of.shape[1] for of in found.values()]
    values = np.concatenate([of.to_numpy(dtype=np.float64) for of in found.values()], axis=1)
    of_erank = np.repeat(logs, widths)
    if aggregate == "erank":
        values = np.where(of_erank, np.exp(values), values)
    columns, mean = mean_of_those_there(values)
    starts = np.cumsum([0, *widths[:-1]])

    def of_means(means: Floats) -> Floats:
        each = mean(means)
        if aggregate == "entropy":
            each = np.where(of_erank, np.exp(each), each)
        total: Floats = np.add.reduceat(each, starts, axis=-1) / widths
        return total

    counts = np.isfinite(values).sum(axis=0)[starts]
    examples = next(iter(found.values())).index
    return Sample(tuple(found), tuple(map(str, examples)), columns, of_means, tuple(map(int, counts)))


METRIC = Metric(
    "inside", "What blocks add to the residual stream", (), _samples, follows_rows=True, named=_named, own_place=True
)
