"""Metrics of examples, by their columns: at each hook point and input the mean over the examples that have a number.

Of effective ranks the logarithms are averaged where a run asks for the mean entropy, so that eRank as one of the
metrics is eRank. A metric of your own is like any other; where it is not known any more, its name is its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Literal

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.pairs import pair_samples
from mmerank.analysis.metrics.pooled import pooled_samples
from mmerank.analysis.sample import Floats, Sample, mean_of_those_there, of_pictures
from mmerank.convention import Aggregate
from mmerank.errors import UsageError
from mmerank.formulas.asked import entry, remembered
from mmerank.formulas.entry import Entry
from mmerank.runs.record import MATCHED, VALUE

_SEES: dict[str, Literal["image", "text", "pair"]] = {"image": "image", "text": "text", "pair": "pair"}
# Of texts: the mean over the untrained twins, the trained model, and untrained - trained, as in Diff-eRank.
_ENDS = ("untrained", "trained", "difference")


def metric_of(column: str) -> Metric:
    """The metric whose numbers stand in a column of the records.

    Args:
        column: `VALUE` or `MATCHED`, and the name of the metric.

    Returns:
        It.
    """
    front = next(front for front in (VALUE, MATCHED) if column.startswith(front))
    name = column.removeprefix(front)
    return _metric_of(front, name, known_as(name))


@cache
def _metric_of(front: str, name: str, known: Entry | None) -> Metric:
    column = f"{front}{name}"
    return Metric(
        name=column,
        title=known.label if known else name,
        quantities=(),
        samples=partial(_samples, column, name),
        prefix="matched_" if front == MATCHED else "",
        # What is of mean states or of sampled rows follows the number of examples, of which compared models have
        # equally many.
        follows_rows=front == VALUE
        and (known is None or (known.follows_rows and not (known.of_states or known.pooled))),
        named=partial(_named, name),
    )


def columns_of(records: pd.DataFrame) -> list[str]:
    """The columns of metrics that records have.

    Args:
        records: As from `mmerank.runs.record.to_frame`.

    Returns:
        In their order.
    """
    return [name for name in map(str, records.columns) if name.startswith((VALUE, MATCHED))]


def known_as(name: str) -> Entry | None:
    """A metric by its name; of your own in a run of yesterday what the run states; None where that is nothing."""
    try:
        return entry(name)
    except UsageError:
        return remembered(name)


def named_quantity(name: str) -> Quantity | None:
    """What is known of a number of some metric by its whole name, as in CSV.

    Args:
        name: `METRIC/POINT/INPUT`, of texts `METRIC/trained`, `METRIC/untrained` or `METRIC/difference`, perhaps
            behind `matched_`.

    Returns:
        It; None where it is not of that form.
    """
    first = name.removeprefix("matched_").partition("/")[0]
    return _named(first, name.removeprefix("matched_")) if "/" in name else None


def _named(metric: str, name: str) -> Quantity | None:
    first, *where = name.split("/")
    if first != metric or not ((len(where) == 2 and where[1] in _SEES) or (len(where) == 1 and where[0] in _ENDS)):
        return None
    known = known_as(metric)
    return Quantity(
        name,
        f"{known.label if known else metric}, {' / '.join(where)}",
        " / ".join(where),
        decimals=2 if known and known.low == "1" else 4,
        better="" if known is None or known.better == "neither" else known.better,
        differs="log" if known and known.averaged == "log" else "value",
        sees=_SEES[where[1]] if len(where) == 2 else "text",
    )


def _samples(column: str, name: str, records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    if column not in records:
        return
    known = known_as(name)
    if known is not None and (known.of_states or known.pooled):
        if column.startswith(VALUE):
            of = pooled_samples(known, records) if known.pooled else pair_samples(known, records, aggregate)
            yield from of
        return
    logs = known is not None and known.averaged == "log" and aggregate == "entropy"
    if of_pictures(records):
        wide = records.pivot(index="example", columns=["point", "input"], values=column).sort_index()
        order = dict.fromkeys(records[["point", "input"]].drop_duplicates().itertuples(index=False, name=None))
        places = [where for where in order if wide[where].notna().any() or _said(records, column, where)]
        names = tuple(f"{name}/{point}/{kind}" for point, kind in places)
        if places:
            values = wide[places].to_numpy(dtype=np.float64)
            columns, of_means = _means(values, logs)
            counts = tuple(map(int, np.isfinite(values).sum(axis=0)))
            yield "", Sample(names, tuple(map(str, wide.index)), columns, of_means, counts)
    elif set(records["input"]) == {"text"}:
        for point, here in records.groupby("point", sort=False):
            wide = here.pivot(index="example", columns="model", values=column).sort_index()
            twins = [model for model in wide if str(model).startswith(TWIN)]
            trained = [model for model in wide if model not in twins]
            if len(trained) == 1 and twins:
                values = wide[[*trained, *twins]].to_numpy(dtype=np.float64)
                values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan)
                columns, of_means = _ends(*_means(values, logs))
                n = int(np.isfinite(values[:, 0]).sum())
                names = tuple(f"{name}/{end}" for end in _ENDS)
                yield str(point), Sample(names, tuple(map(str, wide.index)), columns, of_means, (n,) * len(_ENDS))


def _said(records: pd.DataFrame, column: str, where: tuple[str, str]) -> bool:
    """Whether the metric was taken there, and there is a reason for each number that is missing."""
    point, kind = where
    here = records.loc[(records["point"] == point) & (records["input"] == kind), "no_value"]
    return bool(here.str.contains(f'"{column}": ', regex=False).any())


def _means(values: Floats, logs: bool) -> tuple[Floats, Callable[[Floats], Floats]]:
    """What is averaged of values, (n, q), and what is made of the means, (..., q)."""
    columns, mean = mean_of_those_there(np.log(values) if logs else values)
    return columns, (lambda means: np.asarray(np.exp(mean(means)))) if logs else mean


def _ends(columns: Floats, of_each: Callable[[Floats], Floats]) -> tuple[Floats, Callable[[Floats], Floats]]:
    """The same of a trained model, which comes first, and its twins, whose numbers are averaged."""

    def of_means(means: Floats) -> Floats:
        found = of_each(means)
        before, after = found[..., 1:].mean(axis=-1), found[..., 0]
        return np.stack([before, after, before - after], axis=-1)

    return columns, of_means
