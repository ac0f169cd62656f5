"""Every number of the runs in one table, with the paper's beside it, and which of them are the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.generation import PROMPT, RESPONSE
from mmerank.analysis.metrics.known import metric, on_equal_rows
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.metrics.pruning import MEAN_CHANGE
from mmerank.analysis.perturbation import differences_frame
from mmerank.eranks import ERANKS
from mmerank.report.marks import marked
from mmerank.report.paper.printed import printed_alignment, printed_diff
from mmerank.runs.record import MATCHED as MATCHED_VALUE
from mmerank.runs.record import VALUE


def all_numbers(runs: Sequence[Finished]) -> pd.DataFrame:
    """A row per run, model, transform, hook point and quantity.

    Args:
        runs: At least one.

    Returns:
        `job`, `run`, `data`, and the columns of `mmerank.analysis.estimates.estimates`; `rows`, `all` or on how many
        rows each; `paper`, NaN where it prints
        nothing; `mark`, `q` and `tests` as from `mmerank.report.marks.marked`; of paired states `null_mean` and
        `null_p`, what shuffled pairs give, where the summary of the run has it, and of slopes 0 with the p of their
        permutation test; of a transform `change` from the base, `change_low`, `change_high`, and `change_q` over all
        `change_tests` of its model in the run, NaN of what it cannot move.
    """
    table = pd.concat([_of_run(run) for run in runs], ignore_index=True)
    table = marked(runs, table)
    return table.merge(_changes(runs), how="left", on=["run", "model", "transform", "quantity"])


def _changes(runs: Sequence[Finished]) -> pd.DataFrame:
    """What each transform of a perturbation changed, and how sure that is."""
    columns = {
        "difference": "change",
        "low": "change_low",
        "high": "change_high",
        "q": "change_q",
        "tests": "change_tests",
    }
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
    """What shuffled pairs give, by model and quantity: metrics, eRank5 and alignment; of slopes shuffled losses."""
    of_texts = {
        (model, front + name): {"null_mean": test.null_mean, "p": test.p}
        for front, by_model in (("", run.nulls), (MATCHED, run.nulls_matched))
        for model, nulls in by_model.items()
        for null in nulls[:1]
        for name, test in null.tests.items()
    }
    slopes = {
        (model, of.name): {"null_mean": 0.0, "p": of.found.p}
        for model, found in run.interactions.items()
        for of in found
        if math.isfinite(of.found.p)
    }
    return (
        of_texts
        | slopes
        | {
            (model, f"{name}/{number['point']}/{number['input']}"): number["null"]
            for model, result in run.results.items()
            for name, numbers in result.get("metrics", {}).items()
            for number in numbers
            if number.get("rows") == "all" and number.get("null")
        }
    )


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
