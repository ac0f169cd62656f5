"""Numbers of models against their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.statistics.rank_correlation import spearman
from mmerank.report.agreement import Agreement
from mmerank.report.agreement_words import MOST_SCORES
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, distances, look, shortened


def score_figures(found: Agreement) -> Iterator[Drawing]:
    """For each of the first scores a figure of the main numbers against it.

    Args:
        found: From `mmerank.report.agreement.agreement`.

    Yields:
        Figures.
    """
    main = found.points[found.points["main"]]
    order = list(dict.fromkeys(main["called"]))
    for i, (score, some) in enumerate(islice(main.groupby("score", sort=False), MOST_SCORES)):
        caption = f"Models by numbers and score on {shortened(str(score))}, with 95 % intervals where known."
        yield against_score(f"scores-{i + 1}", caption, some, found.correlations, order)


def against_score(
    name: str, caption: str, points: pd.DataFrame, correlations: pd.DataFrame, order: Sequence[str]
) -> Drawing:
    """A panel for each data set and number, a point for each model.

    Args:
        name: Of the figure.
        caption: Its.
        points: Of `Agreement.points`, of one score.
        correlations: Of `Agreement`, for rho and n above the panels.
        order: Of the models, whose looks are the same in all figures.

    Returns:
        The figure.
    """
    several = points["data"].nunique() > 1
    score = str(points["score"].iloc[0])
    each = {}
    for (data, number), rows in points.groupby(["data", "number"], sort=False):
        same = (correlations["data"] == data) & (correlations["number"] == number)
        of = correlations[same & (correlations["score"] == score)].iloc[0]
        front = f"{shortened(str(data))}: " if several else ""
        drawn = rows.rename(columns={"value": "x", "low": "x_low", "high": "x_high"})
        drawn = drawn.rename(columns={"score_value": "y", "score_low": "y_low", "score_high": "y_high"})
        title, label = f"{front}{_told(of['rho'], of['n'])}", shortened(str(number))
        each[f"{front}{number}"] = partial(draw_scatter, points=drawn, label=label, title=title, order=order)
    return Drawing(name, caption, each, label=shortened(score), columns=2, size=(3.9, 2.9), titled=False)


def scatter(name: str, points: pd.DataFrame, x: str, y: str) -> Drawing:
    """Any two numbers or scores against each other, a panel for each data set, a point for each model.

    Args:
        name: Of the figure.
        points: From `mmerank.report.scatter.scatter_points`.
        x: What the one is called.
        y: The other.

    Returns:
        The figure.
    """
    order = list(dict.fromkeys(points["called"]))
    each = {}
    for data, rows in points.groupby("data", sort=False):
        found = spearman(rows["x"].to_numpy(), rows["y"].to_numpy())
        title = f"{shortened(str(data))}: {_told(found.rho, found.n)}"
        each[str(data)] = partial(draw_scatter, points=rows, label=shortened(x), title=title, order=order)
    caption = f"Models by {x} and {y}, with 95 % intervals where known; \N{GREEK SMALL LETTER RHO}: rank correlation."
    return Drawing(name, caption, each, label=shortened(y), columns=2, size=(3.9, 2.9), titled=False)


def draw_scatter(axes: Axes, points: pd.DataFrame, label: str, title: str, order: Sequence[str]) -> None:
    """A point for each model, with intervals to both sides.

    Args:
        axes: Where to.
        points: `called`, `x` and `y`, each also with `_low` and `_high`.
        label: Of the x axis.
        title: Above it.
        order: Of the models, whose looks are the same in all panels.
    """
    for j, called in enumerate(points["called"]):
        of = points.iloc[[j]]
        across, along = (
            distances(of.rename(columns={f"{side}_low": "low", f"{side}_high": "high"}), side) for side in "xy"
        )
        style, name = look(order.index(called)) | {"linestyle": "none"}, shortened(str(called))
        axes.errorbar(of["x"], of["y"], xerr=across, yerr=along, capsize=2, elinewidth=0.8, label=name, **style)
    axes.set_xlabel(label)
    axes.set_title(title)
    bare(axes)


def _told(rho: float, n: int) -> str:
    shown = f"{rho:+.2f}".replace("-", "\N{MINUS SIGN}")
    return (f"\N{GREEK SMALL LETTER RHO} = {shown}, " if np.isfinite(rho) else "") + f"n = {n}"
