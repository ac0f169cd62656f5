"""Many models on many data sets at a glance: the first number of each kind of run, ranks, and families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.eranks import FINAL
from mmerank.report.names import data_names, model_names
from mmerank.report.printed import Listed
from mmerank.runs.jobs import JOBS

_RATIOS = ("image_reduction_ratio", "image_text_alignment")
MANY = 3  # models
_TRANSFORMERS = "transformers.models."


def overviews(runs: Sequence[Finished], numbers: pd.DataFrame) -> dict[str, Listed]:
    """For each kind of run with many models, or several on several data sets: models x data sets.

    A cell is the first number that the kind has, on equally many rows where it was measured so, and behind it the
    model's rank among those of its column. There are ranks where numbers may be compared, as the marks of
    `mmerank.report.numbers.all_numbers` say.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.

    Returns:
        By job, models of a family together, the best first.
    """
    found, named = {}, model_names(runs)
    for job, kind in JOBS.items():
        of_job = [run for run in runs if run.job == job]
        models = {(run.name, model) for run in of_job for model in run.frames}
        called = {named[key] for key in models}
        several = len(called) > 1 and len({run.data for run in of_job}) > 1
        if not kind.perturbed and (several or len(called) >= MANY):
            table = _overview(of_job, numbers[numbers["job"] == job], kind.first[0], named)
            if table is not None:
                found[job] = table
    return found


def ratios_of_many(runs: Sequence[Finished], numbers: pd.DataFrame) -> list[str]:
    """The two ratios against each other, where so many models have them that a figure shows something.

    Args:
        runs: At least one.
        numbers: As above.

    Returns:
        What `mmerank.report.scatter.scatter_drawing` takes, or nothing.
    """
    here = numbers[numbers["job"].eq("align") & numbers["quantity"].eq(_RATIOS[0]) & numbers["value"].notna()]
    if here["model"].nunique() < MANY:
        return []
    front = MATCHED if numbers["quantity"].eq(f"{MATCHED}{_RATIOS[0]}").any() else ""
    return [",".join(f"{front}{name}" for name in _RATIOS)]


def family(source: dict[str, Any]) -> str:
    """What kind of model it is: the folder of transformers that its class lies in, or its adapter.

    Args:
        source: As in `run.json`.

    Returns:
        As in `qwen2_5_vl`; empty where that is not known.
    """
    for name in source.get("known_by", {}).get("classes", ()):
        if str(name).startswith(_TRANSFORMERS):
            return str(name).removeprefix(_TRANSFORMERS).partition(".")[0]
    return str(source.get("adapter", ""))


def _overview(
    runs: Sequence[Finished], numbers: pd.DataFrame, name: str, named: dict[tuple[str, str], str]
) -> Listed | None:
    plain = numbers["quantity"].str.removeprefix(MATCHED).eq(name) & numbers["transform"].eq("none")
    here = numbers[plain & numbers["point"].isin(["", FINAL]) & numbers["value"].notna()]
    if on_equal := sorted({str(rows) for rows in here["rows"]} - {"all"}):
        here = here[here["rows"].isin(on_equal)]
    if here.empty:
        return None
    data = data_names(run.data for run in runs)
    families = {(run.name, model): family(run.source(model)) for run in runs for model in run.frames}
    keys = list(zip(here["run"].astype(str), here["model"].astype(str), strict=True))
    here = here.assign(called=[named[key] for key in keys], family=[families[key] for key in keys])
    known = quantity(name)
    cells: dict[tuple[str, str, str], str] = {}
    ranks: dict[str, list[float]] = {}
    columns = list(dict.fromkeys(here["data"].astype(str)))
    for of_data in columns:
        column = here[here["data"] == of_data].drop_duplicates("called")
        place = column["value"].rank(ascending=known.better == "lower", method="min")
        ranked = column["mark"].ne("").all() and len(column) > 1
        for (_, row), rank in zip(column.iterrows(), place, strict=True):
            dagger = "†" if row["mark"] == "tied" else ""
            value = f"{row['value']:.{known.decimals}f}".replace("-", "\N{MINUS SIGN}")
            cells[row["family"], row["called"], of_data] = f"{value}{dagger}" + (f" ({rank:.0f})" if ranked else "")
            if ranked:
                ranks.setdefault(row["called"], []).append(float(rank))
    mean = {of: sum(found) / len(found) for of, found in ranks.items()}
    whole = bool(mean) and len(columns) > 1
    models = list(dict.fromkeys((of, called) for of, called, _ in cells))
    best = {of: min(mean.get(called, 0.0) for other, called in models if other == of) for of, _ in models}
    models.sort(key=lambda of: (best[of[0]], of[0], mean.get(of[1], 0.0)))
    rows = tuple(
        (
            (of, called),
            (
                *(cells.get((of, called, one), "-") for one in columns),
                *([f"{mean[called]:.1f}" if called in mean else "-"] if whole else []),
            ),
        )
        for of, called in models
    )
    on = f", on {' or '.join(on_equal)} rows each" if on_equal else ""
    legend = [
        *(
            ["in parentheses: rank, 1 is the highest" + (", of losses the lowest" if known.better == "lower" else "")]
            if mean
            else ["no ranks: the models were not measured alike, or on different numbers of rows"]
        ),
        *(["†: not told from the first (paired permutation test, q ≥ 0.05)"] if "†" in str(rows) else []),
    ]
    heads = (*(data[one] for one in columns), *(["mean rank"] if whole else []))
    return Listed(f"{known.label} of models and data sets{on}", ("family", "model"), heads, rows, "; ".join(legend))
