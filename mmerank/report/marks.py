"""Which of the models measured alike has the best number, and which are not told from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from mmerank.analysis.alike import read_alike, stands_on, unlike_rows
from mmerank.analysis.comparison import MANY, compared
from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import metric, quantity
from mmerank.analysis.metrics.matched import MATCHED, MATCHED_BY
from mmerank.analysis.statistics.paired import ComparisonResult, controlled
from mmerank.eranks import FINAL
from mmerank.report.terminal.perturbation import told_from_zero

_BESIDE = (*MATCHED_BY, "match_others", "token_curve", "rows", "companions", "metrics", "patches")
_FROM_BEST = ("from_best", "from_best_low", "from_best_high")
_Key = tuple[str, str]  # run and model


def marked(runs: Sequence[Finished], table: pd.DataFrame) -> pd.DataFrame:
    """The same numbers with the best of each data set marked.

    Where more than one model was measured on it under one convention, the others are compared with the best on the
    examples that both have (`mmerank.compare`). `q` is over all tests of one metric between the models measured on
    these data, whatever else stands in the report: of up to four models over each two of them and all quantities, as
    in a command; of more over the best of each quantity against each other model. Numbers that follow how many rows
    a model makes are compared where the models have as many, and on equally many rows, where those were measured.

    Args:
        runs: Those of the numbers.
        table: As in `mmerank.report.numbers.all_numbers`, without the columns that are added.

    Returns:
        With `mark`: `best`, `tied` (not told from the best: a q of 0.05 and more, or 0 within the interval of the
        difference), `other`, or nothing where nothing is compared; `from_best`, `from_best_low` and `from_best_high`,
        what it has less the best, with the interval; `q` of that; `tests`, over how many q is, 0 where there is none.
    """
    table = table.assign(mark="", **dict.fromkeys(_FROM_BEST, math.nan), q=math.nan, tests=0)
    for family in _comparable(runs, table).values():
        tested = _tested(runs, family)
        for rows in family:
            best = _best(rows)
            first, name = _key(best.iloc[0]), _in_metric(best.iloc[0])
            for place in rows.index:
                key = _key(rows.loc[place])
                is_b = (first, key) in tested
                if (comparison := tested.get((first, key) if is_b else (key, first))) is None:
                    continue
                table.loc[best.index, "mark"] = "best"
                if place in best.index:
                    continue
                of = comparison[name]
                less = (-of.difference, -of.high, -of.low) if is_b else (of.difference, of.low, of.high)
                table.loc[place, ["mark", "tests"]] = ["other" if told_from_zero(of) else "tied", comparison.tests]
                table.loc[place, ["q", *_FROM_BEST]] = [of.q, *less]
    return table


def _best(rows: pd.DataFrame) -> pd.DataFrame:
    """Of equal ones each is the best, whichever run comes first."""
    sign = 1 if quantity(str(rows["quantity"].iloc[0])).better == "higher" else -1
    value: pd.Series[float] = rows["value"] * sign
    return rows[value == value.max()].sort_values(["model", "run"])


def _key(row: pd.Series[Any]) -> _Key:
    return str(row["run"]), str(row["model"])


def _in_metric(row: pd.Series[Any]) -> str:
    return str(row["quantity"]).removeprefix(metric(str(row["metric"])).prefix)


def _tested(runs: Sequence[Finished], family: Sequence[pd.DataFrame]) -> dict[tuple[_Key, _Key], ComparisonResult]:
    """Comparisons of models by one metric, tested together, by which two they are of."""
    of = {_key(row): row for rows in family for _, row in rows.iterrows()}
    asked: dict[tuple[_Key, _Key], list[str] | None]
    if len(of) <= MANY:
        asked = dict.fromkeys(combinations(of, 2))
    else:
        asked = {}
        for rows in family:
            best = _best(rows)
            for place in rows.index.difference(best.index):
                pair = _key(best.iloc[0]), _key(rows.loc[place])
                pair = pair[::-1] if pair[::-1] in asked else pair
                asked[pair] = [*(asked.get(pair) or ()), _in_metric(best.iloc[0])]
    found = {
        pair: comparison
        for pair, names in asked.items()
        if (comparison := _compared(runs, of[pair[0]], of[pair[1]], names))
    }
    return dict(zip(found, controlled(found.values()), strict=True))


def _comparable(runs: Sequence[Finished], table: pd.DataFrame) -> dict[tuple[str, ...], list[pd.DataFrame]]:
    """Rows of each quantity of untouched examples, of like data, convention and rows, by what else they share."""
    same = {run.name: alike_by(run) for run in runs}
    drawn = {run.name: drawn_by(run) for run in runs}
    wanted = table["quantity"].map(lambda name: bool(quantity(name).better)) & table["transform"].eq("none")
    wanted &= table["point"].isin(["", FINAL]) & table["value"].notna() & table["metric"].ne("accuracy")
    found: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    plain = table["quantity"].str.removeprefix(MATCHED)
    for key, rows in table[wanted].groupby([table["job"], table["run"].map(same), plain], sort=False):
        is_matched = rows["rows"] != "all"
        by_draw = rows[is_matched].groupby(rows["run"].map(drawn), sort=False)
        alike = {str(draw): some for draw, some in by_draw if len(some) > 1}
        everything = rows[~is_matched]
        if len(everything) > 1:
            follows = metric(str(everything["metric"].iloc[0])).follows_rows
            if _on_like_rows(runs, everything) if follows else not alike:
                alike[""] = everything
        for draw, some in alike.items():
            common = (*map(str, key[:2]), str(some["metric"].iloc[0]), draw)
            found.setdefault(common, []).append(some)
    return found


def _on_like_rows(runs: Sequence[Finished], rows: pd.DataFrame) -> bool:
    """Whether models have equally many rows in the examples that they share, wherever the number stands on them."""
    of = {run.name: run for run in runs}
    records = [of[run].of(model) for run, model in zip(rows["run"], rows["model"], strict=True)]
    if rows["job"].iloc[0] == "diff":
        return read_alike(records)
    return not unlike_rows(records).keys() & {*stands_on(str(rows["quantity"].iloc[0]))}


def _compared(
    runs: Sequence[Finished], a: pd.Series[Any], b: pd.Series[Any], quantities: list[str] | None
) -> ComparisonResult | None:
    frames = []
    for row in (a, b):
        run = next(run for run in runs if run.name == row["run"])
        frame = run.frames[row["model"]]
        frames.append(frame[frame["transform"] == "none"])
    try:
        return compared(
            *frames,
            quantities=quantities,
            names=("a", "b"),
            aggregate=run.convention["aggregate"],
            name=str(a["metric"]),
        )
    except ValueError:  # no example in common, or other measurements
        return None


def alike_by(run: Finished) -> str:
    """What runs have in common whose numbers may be held against each other: data, and what decides the numbers."""
    return json.dumps([run.content, measured_by(run.convention)], sort_keys=True)


def drawn_by(run: Finished) -> str:
    """What runs have in common whose rows were drawn alike to match."""
    return json.dumps([run.convention.get(name) for name in MATCHED_BY])


def measured_by(convention: Mapping[str, Any]) -> dict[str, Any]:
    """What of a convention decides the numbers, without what is measured beside them.

    Args:
        convention: As stored in `run.json`.

    Returns:
        The choices.
    """
    return {name: value for name, value in convention.items() if name not in _BESIDE}
