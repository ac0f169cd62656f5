"""Any two numbers of models against each other, or a number and a score."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import metric, quantity
from mmerank.analysis.scores.entry import Scored
from mmerank.eranks import FINAL
from mmerank.errors import UsageError, did_you_mean
from mmerank.report.agreement import scores_of
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.scores import scatter
from mmerank.report.names import data_names, model_names

_AXES = ("value", "low", "high")


def scatter_drawing(
    name: str, runs: Sequence[Finished], numbers: pd.DataFrame, scores: Sequence[Scored], two: str | Sequence[str]
) -> Drawing:
    """Models by two numbers or scores.

    Args:
        name: Of the figure.
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.
        scores: Of models; may be empty.
        two: Names of quantities or scores, as `erank5,POPE` or as two texts.

    Returns:
        The figure.

    Raises:
        UsageError: It is not two, one is no number and no score, or no model has both.
    """
    # Names may have a comma and a space in them.
    asked = [of.strip() for of in (re.split(r",(?! )", two) if isinstance(two, str) else two)]
    if len(asked) != 2:
        raise UsageError(f"scatter: expected two numbers or scores, as erank5,image_text_alignment, got {two!r}")
    sides = [_side(runs, numbers, scores, of) for of in asked]
    keys = ["run", "model"]
    x, y = (
        of.rename(columns={"value": side, "low": f"{side}_low", "high": f"{side}_high"}).drop(columns="label")
        for side, of in zip("xy", sides, strict=True)
    )
    x, y = x[x["x"].notna()], y[y["y"].notna()]
    points = x.merge(y, on=keys)
    if points.empty:  # of runs of different kinds
        points = x.merge(y.drop_duplicates("model").drop(columns="run"), on="model")
    if points.empty:
        raise UsageError(f"scatter: no model has both {asked[0]} and {asked[1]}")
    called, data = model_names(runs), data_names(run.data for run in runs)
    of_data = {run.name: data[run.data] for run in runs}
    points = points.assign(
        called=[called[run, model] for run, model in zip(points["run"], points["model"], strict=True)],
        data=[of_data[run] for run in points["run"]],
    )
    # A model is one point, though an untouched base stands beside its other run; and one model alone is no scatter.
    perturbed = {run.name: run.perturbed for run in runs}
    first = points.assign(again=points["run"].map(perturbed)).sort_values("again", kind="stable")
    points = first.drop_duplicates(["data", "called"]).drop(columns="again").sort_index()
    if (several := points.groupby("data")["called"].transform("size") > 1).any():
        points = points[several]
    return scatter(name, points, *(str(of["label"].iloc[0]) for of in sides))


def _side(runs: Sequence[Finished], numbers: pd.DataFrame, scores: Sequence[Scored], of: str) -> pd.DataFrame:
    """`run`, `model`, `value`, `low`, `high` and `label` of one number or score."""
    here = numbers[(numbers["quantity"] == of) & numbers["transform"].eq("none")]
    here = here[here["point"].isin(["", FINAL])] if here["point"].isin(["", FINAL]).any() else here
    if len(here):
        first = here.iloc[0]
        label = f"{metric(str(first['metric'])).title}, {of.partition('/')[2]}" if "/" in of else quantity(of).label
        on = "" if first["rows"] == "all" else f", {first['rows']} rows each"
        return here[["run", "model", *_AXES]].drop_duplicates(["run", "model"]).assign(label=label + on)
    rows = [
        {"run": run, "model": model, "value": found.value, "low": found.low, "high": found.high, "label": of}
        for (run, model), some in (scores_of(runs, scores) if scores else {}).items()
        for found in some
        if found.name == of
    ]
    if not rows:
        known = [*dict.fromkeys(numbers["quantity"].astype(str)), *dict.fromkeys(found.name for found in scores)]
        short = [name for name in known if "/" not in name]
        raise UsageError(
            f"scatter: no number and no score {of!r}{did_you_mean(of, known)}; there are {', '.join(short or known)}"
        )
    return pd.DataFrame(rows).fillna({"low": math.nan, "high": math.nan})
