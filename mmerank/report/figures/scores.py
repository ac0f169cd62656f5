"""Numbers of models against their scores."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerank.report.agreement import Agreement
from mmerank.report.agreement_words import MOST_SCORES
from mmerank.report.figures.style import bare, distances, legend, look, panels, shortened, styled


def score_figures(found: Agreement) -> Iterator[tuple[str, str, Figure]]:
    """For each of the first scores a figure of the main numbers against it.

    Args:
        found: From `mmerank.report.agreement.agreement`.

    Yields:
        File name without ending, caption, figure.
    """
    main = found.points[found.points["main"]]
    order = list(dict.fromkeys(main["called"]))
    with styled():
        for i, (score, some) in enumerate(islice(main.groupby("score", sort=False), MOST_SCORES)):
            caption = f"Models by numbers and score on {shortened(str(score))}, with 95 % intervals where known."
            yield f"scores-{i + 1}", caption, against_score(some, found.correlations, order)


def against_score(points: pd.DataFrame, correlations: pd.DataFrame, order: list[str]) -> Figure:
    """A panel for each data set and number, a point for each model.

    Args:
        points: Of `Agreement.points`, of one score.
        correlations: Of `Agreement`, for rho and n above the panels.
        order: Of the models, whose looks are the same in all figures.

    Returns:
        The figure.
    """
    drawn = list(points.groupby(["data", "number"], sort=False))
    figure, grid = panels(len(drawn), columns=2, size=(3.9, 2.9))
    several = points["data"].nunique() > 1
    for axes, ((data, number), rows) in zip(grid, drawn, strict=True):
        y = rows.rename(columns={"low": "_", "high": "__", "score_low": "low", "score_high": "high"})
        for j, name in enumerate(rows["called"]):
            style = look(order.index(name)) | {"linestyle": "none"}
            axes.errorbar(
                rows["value"].iloc[[j]],
                rows["score_value"].iloc[[j]],
                xerr=distances(rows.iloc[[j]]),
                yerr=distances(y.iloc[[j]], "score_value"),
                capsize=2,
                elinewidth=0.8,
                label=shortened(str(name)),
                **style,
            )
        same = (correlations["data"] == data) & (correlations["number"] == number)
        of = correlations[same & (correlations["score"] == rows["score"].iloc[0])].iloc[0]
        rho = f"{of['rho']:+.2f}".replace("-", "\N{MINUS SIGN}")
        told = f"\N{GREEK SMALL LETTER RHO} = {rho}, " if np.isfinite(of["rho"]) else ""
        axes.set_title(f"{shortened(str(data)) + ': ' if several else ''}{told}n = {of['n']}")
        axes.set_xlabel(shortened(str(number)))
        bare(axes)
    figure.supylabel(shortened(str(points["score"].iloc[0])))
    legend(figure, grid)
    return figure
