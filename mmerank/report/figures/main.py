"""The main figure of each job, in one pair of axes, which may be a person's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.eranks import ERANKS, FINAL
from mmerank.errors import UsageError
from mmerank.report.figures.generation import draw_growth
from mmerank.report.figures.layers import draw_layers, has_layers
from mmerank.report.figures.pruning import draw_first
from mmerank.report.figures.style import bare, distances, look
from mmerank.runs.jobs import JOBS

STAGES = {label: f"{label.replace('erank', 'eRank')}\n{point}\n{kind}" for label, (point, kind) in ERANKS.items()}
_CHANGE = {"change": "value", "change_low": "low", "change_high": "high"}


def draw_main(
    axes: Axes, runs: Sequence[Finished], numbers: pd.DataFrame, called: Mapping[tuple[str, str], str]
) -> None:
    """eRank1 to eRank5, what transforms change of them, or eRank by layer; with intervals.

    Args:
        axes: Where to.
        runs: Of one job.
        numbers: From `mmerank.report.numbers.all_numbers`.
        called: Name by run and model.

    Raises:
        UsageError: They are of several jobs.
    """
    if len(jobs := {run.job for run in runs}) > 1:
        raise UsageError(f"expected results of one job in a figure, got {', '.join(sorted(jobs))}")
    (job,) = jobs
    kind = JOBS[job]
    models = [(run, model) for run in runs for model in run.frames]
    if job in ("diff", "encode") and len(models) == 1 and has_layers(*models[0]):
        draw_layers(axes, *models[0])
        axes.set_ylabel("eRank")
        axes.legend(frameon=False)
        return
    if job == "generate":
        draw_growth(axes, models, called)
        _named(axes, [called[run.name, model] for run, model in models])
        return
    if job == "prune-study":
        draw_first(axes, models, called)
        return
    if changed := kind.perturbed and (numbers["transform"] != "none").any():
        numbers = (
            numbers[numbers["transform"] != "none"].drop(columns=["value", "low", "high"]).rename(columns=_CHANGE)
        )
    keys = numbers[numbers["point"].isin(["", FINAL])].groupby(["run", "model", "transform"], sort=False)
    series = {
        ", ".join(
            ([called[str(run), str(model)]] if len(models) > 1 or not changed else [])
            + ([str(transform)] if changed else [])
        ): rows
        for (run, model, transform), rows in keys
    }
    points(axes, series, kind.axis or STAGES)
    axes.set_ylabel("change of eRank" if changed else "eRank")
    if changed:
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    else:
        axes.set_ylim(bottom=0)
    _named(axes, list(series))


def draw_differences(axes: Axes, comparison: ComparisonResult) -> None:
    """A - B with intervals; of pairs the eRanks alone, since ratios have another scale.

    Args:
        axes: Where to.
        comparison: Any.
    """
    rows = pd.DataFrame([vars(found) for found in comparison.differences]).assign(value=lambda of: of["difference"])
    named = {name: quantity(name).head.replace(", ", ",\n") for name in rows["quantity"]}
    eranks = {name: STAGES.get(name, label) for name, label in named.items() if "erank" in name}
    title = f"{comparison.a} - {comparison.b}" + (", on equally many rows" if comparison.matched else "")
    points(axes, {title: rows}, eranks or named)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylabel("difference of eRank" if eranks else "difference")
    _named(axes, [title])


def _named(axes: Axes, series: Sequence[str]) -> None:
    """A legend; where there is one series, its name as the title."""
    if len(series) > 1:
        axes.legend(frameon=False)
    else:
        axes.set_title(series[0])


def points(
    axes: Axes,
    series: Mapping[str, pd.DataFrame],
    ticks: Mapping[str, str],
    *,
    looks: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Numbers with their intervals beside each other.

    Args:
        axes: Where to.
        series: Rows with `quantity`, `value`, `low` and `high`, by their name in the legend.
        ticks: What stands below each quantity that is shown.
        looks: Of each series. Default: one after the other.
    """
    for i, (label, rows) in enumerate(series.items()):
        of = rows.set_index("quantity").reindex(list(ticks))
        x = np.arange(len(ticks)) + (i - (len(series) - 1) / 2) * min(0.15, 0.7 / len(series))
        style = {**(look(i) if looks is None else looks[i]), "linestyle": "none"}
        axes.errorbar(x, of["value"], yerr=distances(of), capsize=2.5, label=label, **style)
    axes.set_xticks(range(len(ticks)), list(ticks.values()))
    bare(axes)
