"""Pictures with rows left out: loss and eRank by share and way to choose, and whether that goes with their eRank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.pruning import (
    PREDICTORS,
    Interaction,
    Values,
    choice,
    difference,
    predictor,
    values_of,
)
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, distances, look
from mmerank.report.terminal.pruning import slope_text

_PANELS = {
    "loss_change": "change in loss, nats a token",
    "erank_kept": "eRank2 of the kept rows",
    "erank_kept_after": "their eRank at the LLM",
}


def losses(run: Finished, model: str, name: str, title: str) -> Drawing:
    """What is lost, and the eRank of what is left, against the share of rows that is kept.

    Args:
        run: Of pictures with rows left out.
        model: One of its models.
        name: Of the figure.
        title: What the caption says that it is of.

    Returns:
        The figure.
    """
    caption = (
        "Change in the loss of the response when rows of the picture are left out, and eRank of the kept rows behind "
        f"the connector and at the LLM, with 95 % intervals: {title}."
    )
    each = {label: partial(_draw_panel, run=run, model=model, front=front) for front, label in _PANELS.items()}
    return Drawing(name, caption, each, size=(3.2, 2.7), titled=False)


def _draw_panel(axes: Axes, run: Finished, model: str, front: str) -> None:
    draw_by_share(axes, run, model, front)
    axes.set_ylabel(_PANELS[front])
    if front == "loss_change":
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    else:
        axes.set_ylim(bottom=0)


def draw_by_share(axes: Axes, run: Finished, model: str, front: str = "loss_change", *, called: str = "") -> None:
    """One quantity against the share of rows that is kept, a line for each way to choose them, with intervals.

    Args:
        axes: Where to.
        run: Of pictures with rows left out.
        model: One of its models.
        front: The quantity.
        called: Stands before the names of the lines.
    """
    of = run.estimates[run.estimates["model"] == model].set_index("quantity")
    keeps: list[float] = sorted(run.convention["keep"])
    ways: list[str] = run.convention["by"]
    for i, by in enumerate(ways):
        rows = of.loc[[f"{front}/{choice(by, keep)}" for keep in keeps]]
        # Beside each other, so that intervals are told apart.
        x = np.arange(len(keeps)) + (i - (len(ways) - 1) / 2) * min(0.09, 0.6 / len(ways))
        label = f"{called}{by.rpartition(':')[2]}"
        axes.errorbar(x, rows["value"], yerr=distances(rows), capsize=2, label=label, **look(i))
    axes.set_xticks(range(len(keeps)), [f"{keep:g}" for keep in keeps])
    axes.set_xlabel("share of rows kept")
    bare(axes)


def against_erank(run: Finished, model: str, name: str, title: str) -> Drawing | None:
    """Loss under attention less that under diversity of each picture, against its eRank.

    Args:
        run: Of pictures with rows left out.
        model: One of its models.
        name: Of the figure.
        title: What the caption says that it is of.

    Returns:
        A panel for each share and predictor; None where not both ways were measured.
    """
    found = [of for of in run.interactions[model] if np.isfinite(of.found.slope)]
    if not found:
        return None
    caption = (
        "Loss under attention less that under diversity, each picture a point, against its eRank, with the slope, "
        f"its 95 % interval and the p of its permutation test: {title}. Above 0 diversity loses less."
    )
    values = values_of(run.frames[model])
    each = {
        f"{of.keep:g} kept, {PREDICTORS[of.predictor]}": partial(_draw_slope, of=of, values=values) for of in found
    }
    across = len({of.predictor for of in found})
    label = "loss under attention less diversity, nats a token"
    return Drawing(name, caption, each, label=label, columns=across, size=(3.0, 2.3), titled=False)


def _draw_slope(axes: Axes, of: Interaction, values: Values) -> None:
    x, y = predictor(values, of.predictor), difference(values, of.keep)
    assert x is not None and y is not None  # of what there is a slope
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.plot(x, y, "o", color=look(0)["color"], markersize=3, alpha=0.6, markeredgewidth=0)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, y.mean() + of.found.slope * (ends - x.mean()), color=look(1)["color"])
    axes.set_title(f"{of.keep:g} kept: {slope_text(of)}, p {of.found.p:.2g}", fontsize="small")
    axes.set_xlabel(f"{PREDICTORS[of.predictor]} of the picture")
    bare(axes)


def draw_first(axes: Axes, models: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> None:
    """What is lost, of each model.

    Args:
        axes: Where to.
        models: Runs and models.
        called: Name by run and model.
    """
    for run, model in models:
        draw_by_share(axes, run, model, called=f"{called[run.name, model]}, " if len(models) > 1 else "")
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylabel(_PANELS["loss_change"])
    axes.legend(frameon=False)
