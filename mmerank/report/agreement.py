"""Every number of the runs against every score of their models: rank correlations over models."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import metric, quantity
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.scores.entry import Scored
from mmerank.analysis.statistics.rank_correlation import partial, spearman
from mmerank.convention import loaded_as
from mmerank.eranks import FINAL
from mmerank.errors import DataError
from mmerank.report.agreement_words import cautions, some
from mmerank.report.marks import alike_by
from mmerank.report.names import data_names, model_names
from mmerank.report.numbers import placed
from mmerank.report.paper.printed import named_size
from mmerank.runs.jobs import JOBS
from mmerank.runs.record import MATCHED as MATCHED_VALUE
from mmerank.runs.record import VALUE

# A number for each layer, each modality at each layer, or each of several pictures, would be tests by the hundred.
_BY_LAYER = ("layers", "vision_layers", "inside", "encoder_layers", "pictures")
_SIZES = {"M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Agreement:
    """Numbers of runs beside scores.

    Attributes:
        correlations: A row for each number and score: `job`, `data`, `quantity`, `rows`, `number` (its label), `main`
            (whether it stands first), `score`, `n`, `rho`, `p`, `exact`, `q` over all tests, `partial`, `partial_p`,
            `beside` (what it takes off).
        points: A row for each of these and each model: `model`, `called`, `n` (examples), `value`, `low`, `high`,
            `score_value`, `score_low`, `score_high`, `questions`, `unit`, `mean_rows`, `parameters`.
        cautions: Sentences, the weightiest first.
    """

    correlations: pd.DataFrame
    points: pd.DataFrame
    cautions: tuple[str, ...]


def agreement(runs: Sequence[Finished], numbers: pd.DataFrame, scores: Sequence[Scored]) -> Agreement:
    """Spearman's correlation of each number with each score, over the models that have both.

    Numbers of untouched examples at the final hook points, on the same data under the same convention. Rows and
    parameters are taken off in the partial correlation where they are known of all models: the mean number of rows
    behind a number, of a ratio those of the pair; the parameters that the scores or the models' names state.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.
        scores: At least one.

    Returns:
        Correlations, what is behind them, and what to be careful about.

    Raises:
        DataError: No score is of a model of the runs.
    """
    of_models = scores_of(runs, scores)
    points = _points(runs, numbers, of_models)
    rows = [_row(of) for _, of in points.groupby(["group", "score"], sort=False)]
    table = pd.DataFrame(rows)
    tested = table["p"].notna()
    table["q"] = math.nan
    if tested.any():
        table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"])
    order = {name: i for i, name in enumerate(dict.fromkeys(of.name for of in scores))}
    table["place"] = table["score"].map(order)
    table = table.sort_values(["main", "place"], ascending=[False, True], kind="stable", ignore_index=True)
    table = table.drop(columns="place")
    return Agreement(table, points, tuple(cautions(runs, scores, of_models, table, points)))


def scores_of(runs: Sequence[Finished], scores: Sequence[Scored]) -> dict[tuple[str, str], list[Scored]]:
    """Scores by run and model, whose name is the MODEL argument or what it was named.

    Args:
        runs: At least one.
        scores: At least one.

    Returns:
        They.

    Raises:
        DataError: None is of a model of the runs.
    """
    by_name: dict[str, list[Scored]] = {}
    for of in scores:
        by_name.setdefault(of.model, []).append(of)
    found = {
        (run.name, model): _as_loaded(
            by_name.get(run.names.get(model, model)) or by_name.get(model) or [], loaded_as(run.source(model))
        )
        for run in runs
        for model in run.frames
    }
    if not any(found.values()):
        here = sorted({run.names.get(model, model) for run in runs for model in run.frames})
        raise DataError(
            f"scores: none is of a model of the runs; the scores are of {some(sorted(by_name))}, the runs of "
            f"{some(here)}; --name NAME=MODEL calls a model of the runs as the scores do"
        )
    return found


def _as_loaded(scores: Sequence[Scored], loaded: str) -> list[Scored]:
    """Of each benchmark the score of the model as it was loaded, where it was scored in several ways."""
    ways = Counter(of.name for of in scores)
    return [of for of in scores if ways[of.name] == 1 or of.loaded in ("", loaded)]


def _points(
    runs: Sequence[Finished], numbers: pd.DataFrame, of_models: dict[tuple[str, str], list[Scored]]
) -> pd.DataFrame:
    called, data = model_names(runs), data_names(run.data for run in runs)
    rows_of = {(run.name, model): _rows_behind(run, model) for run in runs for model in run.frames}
    same = {run.name: alike_by(run) for run in runs}
    told = {run.name: json.dumps([data[run.data], run.job]) for run in runs}
    jobs = {run.job for run in runs}
    several = {of for of in told.values() if len({same[name] for name in told if told[name] == of}) > 1}
    here = placed(runs, numbers)
    here = here[here["transform"].eq("none") & here["value"].notna() & here["metric"].ne("accuracy")]
    here = here[(here["point"].isin(["", FINAL]) | here["job"].ne("diff")) & ~here["metric"].isin(_BY_LAYER)]
    found: list[dict[str, Any]] = []
    ways = {(run.name, model): loaded_as(run.source(model)) for run in runs for model in run.frames}
    seen: set[tuple[str, str, str, str]] = set()
    for row in here.to_dict("records"):
        run, model, name = str(row["run"]), str(row["model"]), str(row["quantity"])
        group = json.dumps([row["job"], same[run], name, row["rows"]])
        for of in of_models[run, model]:
            if (group, model, ways[run, model], of.name) in seen:
                continue  # measured twice in one way
            seen.add((group, model, ways[run, model], of.name))
            plain = name.removeprefix(MATCHED)
            found.append(
                {
                    "group": group,
                    "job": row["job"],
                    "data": data[str(row["data"])]
                    + (f", {row['job']}" if len(jobs) > 1 else "")
                    + (f" ({run})" if told[run] in several else ""),
                    "quantity": name,
                    "rows": row["rows"],
                    "number": _label(str(row["metric"]), name, str(row["rows"])),
                    "main": plain in JOBS[str(row["job"])].first,
                    "score": of.name,
                    "model": model,
                    "called": called[run, model],
                    "n": int(row["n"]),
                    "value": row["value"],
                    "low": row["low"],
                    "high": row["high"],
                    "score_value": of.value,
                    "score_low": of.low,
                    "score_high": of.high,
                    "questions": of.n,
                    "unit": of.unit,
                    "mean_rows": _or(row["mean_rows"], rows_of[run, model]),
                    "parameters": _or(of.parameters, _parameters(model)),
                }
            )
    return pd.DataFrame(found)


def _row(of: pd.DataFrame) -> dict[str, Any]:
    first = of.iloc[0]
    found = spearman(of["value"].to_numpy(), of["score_value"].to_numpy())
    beside = {
        called: of[name].to_numpy()
        for name, called in (("mean_rows", "rows"), ("parameters", "parameters"))
        if of[name].notna().all() and of[name].nunique() > 1
    }
    left, p = (math.nan, math.nan)
    if beside and math.isfinite(found.rho):
        left, p = partial(of["value"].to_numpy(), of["score_value"].to_numpy(), list(beside.values()))
    return {
        **{name: first[name] for name in ("job", "data", "quantity", "rows", "number", "main", "score")},
        "n": found.n,
        "rho": found.rho,
        "p": found.p,
        "exact": found.exact,
        "partial": left,
        "partial_p": p,
        "beside": ", ".join(beside) if math.isfinite(left) else "",
    }


def _rows_behind(run: Finished, model: str) -> float:
    """Mean rows of the pair, of a text, or of an encoder's pictures."""
    frame = run.frames[model]
    frame = frame[(frame["model"] == model) & (frame["transform"] == "none")]
    for kind in ("pair", "text", "image"):
        if len(rows := frame[(frame["input"] == kind) & frame["point"].isin(["llm", FINAL])]):
            return float(rows["n"].mean())
    return math.nan


def _parameters(model: str) -> float:
    stated = named_size(model)
    return math.nan if stated is None else float(stated[1][:-1]) * _SIZES[stated[1][-1]]


def _label(of: str, name: str, rows: str) -> str:
    """What a number is called."""
    if of.startswith((VALUE, MATCHED_VALUE)):
        label = f"{metric(of).title}, {name.partition('/')[2].replace('/', ' / ')}"
    else:
        label = quantity(name).label
    return label if rows == "all" else f"{label}, {rows} rows each"


def _or(value: float, other: float) -> float:
    return value if np.isfinite(value) else other
