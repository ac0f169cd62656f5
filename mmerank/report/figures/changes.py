"""Where transforms act: their standardised effects at each hook point, as a forest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.statistics.effects import standardised_limits
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.eranks import ERANKS
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, look, shortened, stage
from mmerank.report.terminal.perturbation import told_from_zero

_APART = 0.15  # of two hook points; transforms are 1 apart
_INCHES = 0.55  # a transform


def changes(found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> Drawing:
    """Standardised changes of eRank1 to eRank5 under each transform, a panel per model.

    Args:
        found: Runs of `perturb`, and their models.
        called: Name by run and model.

    Returns:
        The figure.
    """
    each = {}
    for run, model in found:
        draw = partial(draw_changes, tests=run.tests["alignment"][model], level=run.bootstrap.level)
        each[f"{called[run.name, model]}, n = {run.n(model)}"] = draw
    most = max(len(run.transforms) for run, _ in found)
    caption = (
        "Where transforms act: the change of eRank at each hook point, as the mean over the standard deviation of "
        "the examples' differences of entropy (d_z), with 95 % intervals by the noncentral t. Filled: told from 0 "
        "(q < 0.05, and an interval of the change without 0). What a transform cannot move is left out."
    )
    return Drawing("changes", caption, each, columns=2, size=(4.4, max(1.8, 0.7 + _INCHES * most)))


def draw_changes(axes: Axes, tests: Mapping[str, ComparisonResult], level: float = 0.95) -> None:
    """A row for each transform, and in it a mark for each hook point, the vision encoder's above.

    Args:
        axes: Where to.
        tests: By transform.
        level: Of the intervals.
    """
    for k, label in enumerate(ERANKS):
        drawn = False
        for i, comparison in enumerate(tests.values()):
            test = next(of for of in comparison.differences if of.quantity == label)
            if label in comparison.fixed or not np.isfinite(test.d_z):
                continue
            low, high = standardised_limits(test.d_z, comparison.n, level)
            looks = look(k) | {"linestyle": "none"}
            if not told_from_zero(test):
                looks["markerfacecolor"] = "none"
            reach = [[test.d_z - low], [high - test.d_z]]
            y = i + (k - (len(ERANKS) - 1) / 2) * _APART
            axes.errorbar([test.d_z], [y], xerr=reach, capsize=2, elinewidth=0.9, **looks)
            drawn = True
        if drawn:  # in the legend filled, wherever it is not
            axes.errorbar([], [], xerr=[], label=stage(label), **look(k) | {"linestyle": "none"})
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for i in range(1, len(tests), 2):
        axes.axhspan(i - 0.5, i + 0.5, color="0.5", alpha=0.1, linewidth=0, zorder=0)
    axes.set_yticks(range(len(tests)), [shortened(name) for name in tests])
    axes.set_ylim(len(tests) - 0.5, -0.5)
    axes.set_xlabel("standardised change (d_z)")
    bare(axes)
    axes.grid(visible=False, axis="y")
