"""Every number of the runs in one table, with the paper's beside it, and which of them are the best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from mmerank.analysis.alike import read_alike, unlike_rows
from mmerank.analysis.comparison import compared
from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.generation import PROMPT, RESPONSE
from mmerank.analysis.metrics.known import metric, on_equal_rows, quantity
from mmerank.analysis.metrics.matched import MATCHED, MATCHED_BY
from mmerank.analysis.metrics.pruning import MEAN_CHANGE
from mmerank.analysis.perturbation import differences_frame
from mmerank.analysis.statistics.paired import ComparisonResult, controlled
from mmerank.eranks import ERANKS, FINAL
from mmerank.report.paper.printed import printed_alignment, printed_diff
from mmerank.runs.record import MATCHED as MATCHED_VALUE
from mmerank.runs.record import VALUE

_BESIDE = (*MATCHED_BY, "match_others", "token_curve", "rows", "companions", "metrics", "patches")
# A difference from the best with a larger q is not told from chance.
SIGNIFICANT = 0.05


def all_numbers(runs: Sequence[Finished]) -> pd.DataFrame:
    """A row per run, model, transform, hook point and quantity.

    The best of a data set is marked where more than one model was measured on it under one convention. The others are
    compared with it on the examples they share (`mmerank.compare`); `q` is over all such tests of the report. Where
    models were measured on equally many rows, that is done with these numbers, and with no others. Without them
    nothing is marked where models have different numbers of rows, which eRanks follow first.

    Args:
        runs: At least one.

    Returns:
        `job`, `run`, `data`, and the columns of `mmerank.analysis.estimates.estimates`; `rows`, `all` or on how many
        rows each; `paper`, NaN where it prints
        nothing; `mark`: `best`, `tied` (not told from the best), `other`, or nothing where nothing is compared; `q`
        of the difference from the best; of paired states `null_mean` and `null_p`, what shuffled pairs give, where
        the summary of the run has it; of a transform `change` from the base, `change_low`, `change_high`, and
        `change_q` over all tests of its model in the run, NaN of what it cannot move.
    """
    table = pd.concat([_of_run(run) for run in runs], ignore_index=True)
    table["mark"], table["q"] = "", math.nan
    table = table.merge(_changes(runs), how="left", on=["run", "model", "transform", "quantity"])
    found: list[tuple[int, ComparisonResult]] = []
    for rows in _comparable(runs, table):
        goodness = rows["value"] * (1 if quantity(str(rows["quantity"].iloc[0])).better == "higher" else -1)
        # Of equal ones each is the best, whichever run comes first.
        best = rows[goodness == goodness.max()].sort_values(["model", "run"])
        compared = [
            (int(place), comparison)
            for place in rows.index
            if place != best.index[0] and (comparison := _against(runs, best.iloc[0], rows.loc[place]))
        ]
        if compared:
            table.loc[best.index, "mark"] = "best"
            found += [(place, comparison) for place, comparison in compared if place not in best.index]
    if found:
        for (place, _), comparison in zip(found, controlled(c for _, c in found), strict=True):
            q = comparison.differences[0].q
            table.loc[place, ["mark", "q"]] = ["other" if q < SIGNIFICANT else "tied", q]
    return table


def _changes(runs: Sequence[Finished]) -> pd.DataFrame:
    """What each transform of a perturbation changed, and how sure that is."""
    columns = {"difference": "change", "low": "change_low", "high": "change_high", "q": "change_q"}
    found = [
        differences_frame(tests).assign(run=run.name, model=model, front=metric(of).prefix)
        for run in runs
        if run.perturbed and run.transforms
        for of, by_model in run.tests.items()
        for model, tests in by_model.items()
        if tests
    ]
    keys = ["run", "model", "transform", "quantity"]
    if not found:
        return pd.DataFrame(
            {name: pd.Series(dtype=object if name in keys else float) for name in (*keys, *columns.values())}
        )
    table = pd.concat(found, ignore_index=True).rename(columns=columns)
    table["quantity"] = table["front"] + table["quantity"]
    table.loc[table["fixed"], "change_q"] = math.nan
    return table[[*keys, *columns.values()]]


def _of_run(run: Finished) -> pd.DataFrame:
    table = run.estimates.copy()
    table.insert(0, "job", run.job)
    table.insert(1, "run", run.name)
    table.insert(2, "data", run.data)
    table["rows"] = table["metric"].map(on_equal_rows).map({True: str(run.match_tokens), False: "all"})
    rows = []
    for name, result in run.results.items():
        shared = {
            "job": run.job,
            "run": run.name,
            "data": run.data,
            "model": name,
            "transform": "none",
            "metric": "accuracy",
            "point": "final",
            "rows": "all",
        }
        for task, value in result.get("accuracy", {}).items():
            count = result.get("accuracy_n", {}).get(task, 0)
            rows.append(
                {
                    **shared,
                    "quantity": f"accuracy, {task}",
                    "value": value,
                    "low": math.nan,
                    "high": math.nan,
                    "n": count,
                }
            )
    table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True) if rows else table
    shuffled = _nulls(run)
    untouched = zip(table["model"], table["quantity"], table["transform"].eq("none"), strict=True)
    found = [shuffled.get((model, name), {}) if plain else {} for model, name, plain in untouched]
    table["null_mean"] = [of.get("null_mean", math.nan) for of in found]
    table["null_p"] = [of.get("p", math.nan) for of in found]
    table["paper"] = math.nan
    for key, rows_of in table.groupby(["model", "transform", "point"], sort=False):
        model, transform, point = map(str, key)
        printed: dict[str, float] = {}  # the paper has no encoders
        if run.job == "diff":
            printed = printed_diff(model, run.data) if point == "final" else {}
        elif run.kind.of_pairs:
            printed = printed_alignment(model, run.source(model), run.data, transform)
        table.loc[rows_of.index, "paper"] = rows_of["quantity"].map(printed)
    return table


def _nulls(run: Finished) -> dict[tuple[str, str], dict[str, float]]:
    """What shuffled pairs give, by model and quantity, as the run's summary has it."""
    return {
        (model, f"{name}/{number['point']}/{number['input']}"): number["null"]
        for model, result in run.results.items()
        for name, numbers in result.get("metrics", {}).items()
        for number in numbers
        if number.get("rows") == "all" and number.get("null")
    }


def _comparable(runs: Sequence[Finished], table: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of one quantity of untouched examples, of the same data under the same convention and on like rows."""
    same = {
        run.name: json.dumps([run.settings["data"].get("fingerprint"), measured_by(run.convention)], sort_keys=True)
        for run in runs
    }
    drawn = {run.name: json.dumps([run.convention.get(name) for name in MATCHED_BY]) for run in runs}
    wanted = table["quantity"].map(lambda name: bool(quantity(name).better)) & table["transform"].eq("none")
    wanted &= table["point"].isin(["", FINAL]) & table["value"].notna() & table["metric"].ne("accuracy")
    found = []
    plain = table["quantity"].str.removeprefix(MATCHED)
    for _, rows in table[wanted].groupby([table["job"], table["run"].map(same), plain], sort=False):
        is_matched = rows["rows"] != "all"
        by_draw = rows[is_matched].groupby(rows["run"].map(drawn), sort=False)
        matched = [some for _, some in by_draw if len(some) > 1]
        everything = rows[~is_matched]
        if matched:
            found += matched
        elif len(everything) > 1:
            follows = metric(str(everything["metric"].iloc[0])).follows_rows
            if not follows or _on_like_rows(runs, everything):
                found.append(everything)
    return found


def _on_like_rows(runs: Sequence[Finished], rows: pd.DataFrame) -> bool:
    """Whether models have equally many rows in the examples that they share."""
    of = {run.name: run for run in runs}
    records = [of[run].of(model) for run, model in zip(rows["run"], rows["model"], strict=True)]
    return read_alike(records) if rows["job"].iloc[0] == "diff" else not unlike_rows(records)


def _against(runs: Sequence[Finished], best: pd.Series[Any], other: pd.Series[Any]) -> ComparisonResult | None:
    frames = []
    for row in (best, other):
        run = next(run for run in runs if run.name == row["run"])
        frame = run.frames[row["model"]]
        frames.append(frame[frame["transform"] == "none"])
    try:
        return compared(
            *frames,
            quantities=[best["quantity"].removeprefix(metric(str(best["metric"])).prefix)],
            names=("best", "other"),
            aggregate=run.convention["aggregate"],
            name=str(best["metric"]),
        )
    except ValueError:  # no example in common, or other measurements
        return None


def measured_by(convention: Mapping[str, Any]) -> dict[str, Any]:
    """What of a convention decides the numbers, without what is measured beside them.

    Args:
        convention: As stored in `run.json`.

    Returns:
        The choices.
    """
    return {name: value for name, value in convention.items() if name not in _BESIDE}


def placed(runs: Sequence[Finished], numbers: pd.DataFrame) -> pd.DataFrame:
    """The same with where each number is read, in words.

    Args:
        runs: Those of the numbers.
        numbers: From `all_numbers`.

    Returns:
        The table with `point` and `input` of every number that has one place, and `mean_rows`, how many rows are
        behind it on average; empty and NaN of others, as ratios.
    """
    found = [_place(*of) for of in zip(numbers["metric"], numbers["quantity"], numbers["point"], strict=True)]
    table = numbers.assign(point=[point for point, _ in found])
    table.insert(list(table.columns).index("point") + 1, "input", [kind for _, kind in found])
    means = {
        (run.name, model, *key): float(of["n"].mean())
        for run in runs
        for model, frame in run.frames.items()
        for key, of in _of_draws(frame[frame["model"] == model]).groupby(["transform", "point", "input"])
    }
    eranks = table["quantity"].str.contains("erank|participation_ratio")
    # Of a picture among several, its own rows are not counted.
    counted = (eranks & table["metric"].ne("pictures")) | table["metric"].str.startswith((VALUE, MATCHED_VALUE))
    keys = zip(*(table[name] for name in ("run", "model", "transform", "point", "input")), strict=True)
    behind = pd.Series([means.get(key, math.nan) for key in keys], index=table.index)
    rows = pd.to_numeric(table["rows"], errors="coerce")
    table["mean_rows"] = behind.where(rows.isna() | behind.isna(), rows).where(counted)
    return table


def _of_draws(records: pd.DataFrame) -> pd.DataFrame:
    """Draws of rows, which are numbered, as one."""
    return records.assign(input=records["input"].str.partition("#")[0])


def _place(of: str, name: str, point: str) -> tuple[str, str]:
    """Hook point and input of a number; empty where it is of several."""
    plain = name.removeprefix(metric(of).prefix) if of != "accuracy" else name
    if (label := plain.rpartition("/")[2].replace("participation_ratio", "erank")) in ERANKS:
        return ERANKS[label]
    if of.startswith((VALUE, MATCHED_VALUE)):
        _, *where, kind = plain.split("/")
        return point or "/".join(where), "text" if kind in ("trained", "untrained", "difference") else kind
    if plain in (PROMPT, RESPONSE) or plain.startswith(f"{RESPONSE}_at_"):
        return "llm", "prompt" if plain == PROMPT else "response"
    if of in ("pruning_whole", "pruning_rows"):
        front, _, choice = plain.partition("/")
        if choice:
            return "connector" if front.endswith("_kept") else "llm", choice
        return (
            ("", "")
            if front == MEAN_CHANGE.name
            else (front.removeprefix("erank_").replace("loss_whole", "llm"), "whole")
        )
    if of == "layers":
        return plain.partition("/")[0], "pair"
    if of == "vision_layers":
        return plain.partition("/")[0], "image"
    if of == "inside":
        at, which, _ = plain.split("/")
        return at, "text" if which in ("trained", "untrained") else "pair"
    if of == "encoder_layers":
        return point, plain.removeprefix("erank_").partition("_")[0]
    return point, "text" if point else ""


def by_quantity(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Rows of one model, transform and hook point by the name of their quantity.

    Args:
        rows: Of `all_numbers`.

    Returns:
        Value by column, by quantity.
    """
    return {str(row["quantity"]): {str(k): v for k, v in row.items()} for row in rows.to_dict("records")}


def skipped(run: Finished) -> list[tuple[str, str, str]]:
    """Model, id and reason of each example that was left out."""
    return list(
        chain.from_iterable(
            [(model, str(entry["id"]), str(entry["reason"])) for entry in result.get("skipped", [])]
            for model, result in run.results.items()
        )
    )
