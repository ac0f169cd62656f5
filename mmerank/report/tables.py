"""Numbers -> the cells of tables, whatever they are printed in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.inside import OF_UPDATES
from mmerank.analysis.metrics.known import METRICS, metric, quantity
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.metrics.pruning import PREDICTORS
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.eranks import FINAL
from mmerank.errors import UsageError, did_you_mean
from mmerank.report.names import data_names, model_names
from mmerank.report.printed import Cell, Listed, Printed
from mmerank.report.terminal.intervals import interval_text, opposed_note, q_text
from mmerank.report.terminal.perturbation import ALPHA, difference_text
from mmerank.report.terminal.pruning import slope_text
from mmerank.runs.jobs import JOBS
from mmerank.runs.record import MATCHED as MATCHED_VALUE
from mmerank.runs.record import VALUE

# Metrics whose numbers stand in the first table of a job, and those of them in it where there are more.
_OF_ENCODERS = ("matched_cosine", "retrieval")
_MAIN = (*dict.fromkeys(kind.metric for kind in JOBS.values()), "matched", "accuracy", *_OF_ENCODERS)
_WHOLE = tuple(name for name in _MAIN if name != "diff_erank")
_FIRST = (
    "erank_untrained",
    "erank_trained",
    "diff_erank",
    "diff_erank_mean_of_eranks",
    "erank_ratio",
    "loss_trained",
    "reduced_loss",
)
# A row for each choice of rows.
_BY_CHOICE = ("pruning", "pruning_rows", "pruning_slopes")
# With p and q beside them, in a table of their own.
_LISTED = ("pruning_slopes",)
_MOST_HEADS = 8  # with more quantities each has a row


def printed_tables(runs: Sequence[Finished], numbers: pd.DataFrame) -> list[Printed]:
    """For each kind of run the table of its main numbers, and behind it one for each other metric that was measured.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.

    Returns:
        The tables, in the order of `JOBS`; a row per data set and model, of a perturbation also per transform, of
        further hook points also per point.
    """
    named, data = model_names(runs), data_names(run.data for run in runs)
    tables = []
    for job, title in ((name, kind.title) for name, kind in JOBS.items()):
        here = numbers[numbers["job"] == job]
        if here.empty:
            continue
        final, main = here["point"].isin(["", FINAL]), here["metric"].isin(_MAIN)
        first = here["quantity"].isin(_FIRST) | here["metric"].isin(_WHOLE)
        parts = [(title, here[final & main & first]), (f"{title}: more", here[final & main & ~first])]
        parts.append((f"{title}, by layer", here[~final & here["quantity"].isin(_FIRST)]))
        parts += [(of.title, here[here["metric"] == of.name]) for of in METRICS if of.name not in (*_MAIN, *_LISTED)]
        parts.append(("Metrics", here[here["metric"].str.startswith((VALUE, MATCHED_VALUE))]))
        tables += [
            replace(_printed(job, called, rows, named, data), level=_level(runs, job))
            for called, rows in parts
            if len(rows)
        ]
    return tables


def chosen_tables(runs: Sequence[Finished], numbers: pd.DataFrame, columns: Sequence[str] | None) -> list[Printed]:
    """For each kind of run one table: of its main numbers, or of those that are named.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.
        columns: Quantities, or metrics for all of theirs; None for the main numbers.

    Returns:
        The tables; numbers of metrics that were asked for, which have a row for each metric, stand in one of their
        own.

    Raises:
        UsageError: There is no such number.
    """
    if columns is None:
        return [table for table in printed_tables(runs, numbers) if table.first]
    order = {name: i for i, name in enumerate(columns)}
    place = numbers["quantity"].map(order)
    for other in (numbers["quantity"].str.partition("/")[0], numbers["metric"]):
        place = place.fillna(other.map(order))
    if missing := sorted(set(columns) - {columns[int(i)] for i in place.dropna().unique()}, key=order.__getitem__):
        known = list(dict.fromkeys(numbers["quantity"].str.partition("/")[0]))
        raise UsageError(f"no number {missing[0]!r}{did_you_mean(missing[0], known)}; there are {', '.join(known)}")
    here = numbers[place.notna()].assign(place=place).sort_values("place", kind="stable").drop(columns="place")
    named, data = model_names(runs), data_names(run.data for run in runs)
    tables = []
    for job, kind in JOBS.items():
        of_job = here[here["job"] == job]
        asked = of_job["metric"].str.startswith((VALUE, MATCHED_VALUE))
        for title, rows in ((kind.title, of_job[~asked]), (f"{kind.title}: metrics", of_job[asked])):
            last = rows[rows["point"].isin(["", FINAL])]
            rows = last if len(last) and set(last["quantity"]) == set(rows["quantity"]) else rows
            if len(rows):
                tables.append(replace(_printed(job, title, rows, named, data), level=_level(runs, job)))
    return tables


def _level(runs: Sequence[Finished], job: str) -> float:
    return next((run.bootstrap.level for run in runs if run.job == job), 0.95)


def _printed(
    job: str, title: str, numbers: pd.DataFrame, named: dict[tuple[str, str], str], called: dict[str, str]
) -> Printed:
    matched = numbers["rows"].ne("all")
    plain = numbers["quantity"].str.removeprefix(MATCHED).where(matched, numbers["quantity"])
    asked = numbers["metric"].str.startswith((VALUE, MATCHED_VALUE))
    # Of a metric that was asked for the places are the columns, and it has a row; so has a choice of rows.
    kept = numbers["metric"].isin(_BY_CHOICE)
    parted = plain.str.partition("/")
    here = numbers.assign(
        plain=parted[2].where(asked, parted[0].where(kept, plain)),
        asked=parted[0].where(asked, parted[2].where(kept, "")),
    )
    # Of what blocks add each update has a row for each set of rows.
    inside = here["metric"].eq("inside")
    ends = plain.str.rpartition("/")
    here["plain"], here["point"] = ends[2].where(inside, here["plain"]), ends[0].where(inside, here["point"])
    here["point"] = here["point"].str.replace("/", ", ")
    heads = list(dict.fromkeys(here["plain"]))
    told = [
        *(["transform"] if JOBS[job].perturbed else []),
        *(["metric"] if asked.any() else []),
        *(["rows kept"] if kept.any() else []),
        *(["rows"] if matched.any() else []),
        *(["point"] if here["point"].nunique() > 1 else []),
    ]
    long = len(heads) > _MOST_HEADS
    rows: list[tuple[tuple[str, ...], int, tuple[Cell, ...]]] = []
    for key, found in here.groupby(["data", "run", "model", "transform", "asked", "rows", "point"], sort=False):
        data, run, model, transform, name, on_rows, point = map(str, key)
        row = {str(of["plain"]): of for of in found.to_dict("records")}
        on = on_rows if on_rows == "all" else f"{on_rows} each"
        of = metric(f"{VALUE}{name}").title if name and asked.any() else ""
        by = " ".join(reversed(name.partition("@"))).replace("@", "by") if name else "all"
        more = {"transform": _transform(transform), "metric": of, "rows kept": by, "rows": on, "point": point}
        names = (called[data], named[run, model], *(more[name] for name in told))
        if long:
            rows += [
                ((*names, _head(head, bool(asked.any()))), int(row[head]["n"]), (_cell(row[head]),)) for head in row
            ]
        else:
            rows.append((names, int(found["n"].max()), tuple(_cell(row.get(head)) for head in heads)))
    # What may be compared stands together.
    order = list(dict.fromkeys(names[0] for names, _, _ in rows))
    rows.sort(key=lambda row: order.index(row[0][0]))
    shown = ("value",) if long else tuple(_head(head, bool(asked.any())) for head in heads)
    return Printed(job, title, shown, tuple(rows), ("data", "model", *told, *(["number"] if long else [])))


def _head(name: str, place: bool) -> str:
    """The label of a quantity, or a place."""
    return name.replace("/", " / ") if place else OF_UPDATES.get(name) or quantity(name).label


def _cell(found: Mapping[Hashable, Any] | None) -> Cell:
    if found is None or not math.isfinite(found["value"]):
        return Cell("")
    decimals = quantity(str(found["quantity"])).decimals
    value = _minus(f"{found['value']:.{decimals}f}")
    paper = _minus(f"{found['paper']:.{decimals}f}") if math.isfinite(found["paper"]) else ""
    if not math.isfinite(found["change"]):
        return Cell(value, _interval(found["low"], found["high"], decimals, found["value"]), paper, found["mark"])
    tested = math.isfinite(found["change_q"])
    low, high = found["change_low"], found["change_high"]
    told = tested and found["change_q"] < ALPHA and (low > 0 or high < 0)
    return Cell(
        value,
        paper=paper,
        change=_minus(difference_text(found["change"], decimals, told)),
        change_interval=_interval(low, high, decimals, found["change"]) if tested else "",
        change_q=q_text(found["change_q"]) if tested else "",
    )


def _interval(low: float, high: float, decimals: int, value: float) -> str:
    limits = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    return _minus(interval_text(limits, decimals, value))


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def null_table(runs: Sequence[Finished]) -> Listed | None:
    """Where eRank5 and the Image-Text Alignment stand among those of pictures with other examples' texts.

    Args:
        runs: Any.

    Returns:
        The table; None where no run has controls.
    """
    rows = []
    for run in runs:
        for control, name, test in run.null_tests:
            d = quantity(name).decimals
            spread = f" ± {test.null_sd:.{d}f}" if math.isfinite(test.null_sd) else ""
            z = _minus(f"{test.z:+.1f}") if math.isfinite(test.z) else "-"
            numbers = (f"{test.value:.{d}f}", f"{test.null_mean:.{d}f}{spread}", z, f"{test.p:.2g}", str(test.draws))
            rows.append(((run.name, control, quantity(name).label), numbers))
    heads = ("here", "null mean ± sd", "z", "p", "draws")
    title = "Against pictures with other examples' texts"
    return Listed(title, ("run", "null", "number"), heads, tuple(rows)) if rows else None


def interaction_table(runs: Sequence[Finished]) -> Listed | None:
    """Whether what attention loses and diversity does not goes with a picture's eRank.

    Args:
        runs: Any.

    Returns:
        The table; None where no run left rows out in both ways.
    """
    rows, named = [], model_names(runs)
    for run in runs:
        for model, found in run.interactions.items():
            for of in found:
                if math.isfinite(of.found.slope):
                    tests = (q_text(of.found.p), q_text(of.q), str(of.found.n))
                    names = (named[run.name, model], f"{of.keep:g}", PREDICTORS[of.predictor])
                    rows.append((names, (_minus(slope_text(of)), _minus(f"{of.found.r:+.2f}"), *tests)))
    if not rows:
        return None
    legend = (
        "slope: nats of loss per unit; positive: the higher the eRank, the more speaks for diversity; p: permutation "
        "test; q: over all tests of a model"
    )
    heads = ("slope", "r", "p", "q", "n")
    title = "Loss under attention less that under diversity, by the picture's eRank"
    return Listed(title, ("model", "kept", "picture's"), heads, tuple(rows), legend)


def lists(runs: Sequence[Finished]) -> dict[str, Listed]:
    """What stands below the first table of a kind of run.

    Args:
        runs: Any.

    Returns:
        By job.
    """
    found = {"perturb": null_table(runs), "prune-study": interaction_table(runs)}
    return {job: table for job, table in found.items() if table is not None}


def compared_table(comparison: ComparisonResult, names: Mapping[str, str], columns: Sequence[str] | None) -> Listed:
    """A - B, a row for each number.

    Args:
        comparison: Any.
        names: What to call A, B and numbers, by what they are called.
        columns: Which numbers; None for all.

    Returns:
        The table.

    Raises:
        UsageError: There is no such number, or nothing of such a name.
    """
    quantities = [found.quantity for found in comparison.differences]
    labels = [quantity(name).label for name in quantities]
    for word, given, known in (
        ("columns: no number", columns or (), quantities),
        ("names: nothing is called", names, [comparison.a, comparison.b, *labels]),
    ):
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"{word} {unknown[0]!r}{did_you_mean(unknown[0], known)}; there are {', '.join(known)}")
    a, b = (names.get(name, name) for name in (comparison.a, comparison.b))
    level, rows = 100 * comparison.bootstrap.level, []
    for name in columns or quantities:
        found, d, label = comparison[name], quantity(name).decimals, quantity(name).label
        change = _minus(f"{found.difference:+.{d}f} {_interval(found.low, found.high, d, found.difference)}".rstrip())
        told = (_minus(f"{found.a:.{d}f}"), _minus(f"{found.b:.{d}f}"), change, q_text(found.p), q_text(found.q))
        effect = _minus(f"{found.d_z:.2f}") if math.isfinite(found.d_z) else "-"
        rows.append(((names.get(label, label),), (*told, effect)))
    legend = (
        f"n = {comparison.n} examples that both have; in brackets: {level:.4g} % intervals "
        f"of the difference; p: paired permutation test; q: over {comparison.tests} tests; d_z: mean / sd of the "
        "examples' differences"
    )
    if comparison.opposed:
        legend += f"; {opposed_note(comparison.opposed)}"
    heads = (a, b, "difference", "p", "q", "d_z")
    on = ", on equally many rows" if comparison.matched else ""
    return Listed(f"{a} against {b}{on}", ("number",), heads, tuple(rows), legend)


def _transform(name: str) -> str:
    return "base" if name == "none" else name
