"""Numbers beside scores -> tables as they are printed."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.statistics.rank_correlation import EXACT
from mmerank.report.agreement import Agreement
from mmerank.report.agreement_words import MOST_SCORES
from mmerank.report.printed import Cell, Listed, Printed
from mmerank.report.terminal.intervals import interval_text, q_text

_RHO = "\N{GREEK SMALL LETTER RHO}"


def beside_table(found: Agreement) -> Printed:
    """The models with their main numbers and their scores; scores beyond the first few stand in agreement_points.csv.

    Args:
        found: From `mmerank.report.agreement.agreement`.

    Returns:
        A row for each data set and model.
    """
    main = found.points[found.points["main"]]
    main = main if len(main) else found.points
    numbers, scores = list(dict.fromkeys(main["number"])), list(dict.fromkeys(main["score"]))[:MOST_SCORES]
    rows = []
    for _, some in main.groupby(["data", "called"], sort=False):
        of_number = some.drop_duplicates("number").set_index("number").to_dict("index")
        of_score = some.drop_duplicates("score").set_index("score").to_dict("index")
        cells = [_number(of_number.get(name)) for name in numbers] + [_score(of_score.get(name)) for name in scores]
        rows.append(((some["data"].iloc[0], some["called"].iloc[0]), int(some["n"].iloc[0]), tuple(cells)))
    order = list(dict.fromkeys(main["data"]))
    rows.sort(key=lambda row: order.index(row[0][0]))
    in_percent = set(main.loc[main["unit"] == "percent", "score"])
    heads = (*numbers, *(f"{name} (%)" if name in in_percent else name for name in scores))
    return Printed(str(main["job"].iloc[0]), "Numbers beside scores", heads, tuple(rows))


def score_tables(found: Agreement) -> list[Listed]:
    """Every number against every score.

    Args:
        found: From `mmerank.report.agreement.agreement`.

    Returns:
        A table of the main numbers, and one of all others where there are any; none where there are too few models.
    """
    if found.correlations["rho"].isna().all():
        return []
    first = found.correlations["main"]
    parts = [("Numbers against scores", first), ("Further numbers against scores", ~first)]
    return [_against(title, found.correlations[of]) for title, of in parts if of.any()]


def _against(title: str, table: pd.DataFrame) -> Listed:
    told = [*(["data"] if table["data"].nunique() > 1 else []), "number"]
    if table["score"].nunique() > 1:
        told.insert(0, "score")
    else:
        title = title.replace("scores", str(table["score"].iloc[0]))
    beside = sorted({of for of in table["beside"] if of})
    heads = ["n", f"Spearman {_RHO}", "p", "q", *([f"partial {_RHO}"] if beside else [])]
    rows = []
    for row in table.to_dict("records"):
        cells = [str(row["n"]), _signed(row["rho"]), _p(row["p"]), _p(row["q"])]
        if beside:
            off = "" if row["beside"] == beside[-1] else f", {row['beside']} off"
            cells.append(f"{_signed(row['partial'])} (p {_p(row['partial_p'])}{off})" if row["beside"] else "-")
        rows.append((tuple(str(row[name]) for name in told), tuple(cells)))
    legend = (
        f"over n models; p: two-sided, of all orders up to {EXACT} models; q: over all tests of numbers against "
        "scores of this report (Benjamini and Hochberg)"
    )
    if beside:
        legend += (
            f"; partial {_RHO}: {' and '.join(beside[-1].split(', '))} of the models taken off, p by Student's t"
        )
    return Listed(title, tuple(told), tuple(heads), tuple(rows), legend)


def _number(row: Any) -> Cell:
    if row is None:
        return Cell("-")
    decimals = quantity(str(row["quantity"])).decimals
    return Cell(_minus(f"{row['value']:.{decimals}f}"), _minus(_interval(row["low"], row["high"], decimals)))


def _score(row: Any) -> Cell:
    if row is None:
        return Cell("-")
    decimals = 3 if row["unit"] == "fraction" or abs(row["score_value"]) <= 1 else 1
    return Cell(
        _minus(f"{row['score_value']:.{decimals}f}"), _minus(_interval(row["score_low"], row["score_high"], decimals))
    )


def _interval(low: float, high: float, decimals: int) -> str:
    return interval_text((low, high) if math.isfinite(low) and math.isfinite(high) else None, decimals)


def _p(value: float) -> str:
    return q_text(value) if math.isfinite(value) else "-"


def _signed(value: float) -> str:
    return _minus(f"{value:+.2f}") if math.isfinite(value) else "-"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
