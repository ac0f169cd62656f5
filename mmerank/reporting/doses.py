"""Dose and response: what the strengths of a transform do to each number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.eranks import ERANKS, LABELS
from mmerank.reporting.style import bare, distances, legend, log_axes, look, spaced_ticks, stage
from mmerank.transforms import KNOWN

_ACROSS = 3
# One above the other, with what stands at their y axis.
_PANELS = (
    (tuple(ERANKS), "change of eRank"),
    (tuple(name for name in LABELS if name not in ERANKS), "change of the ratio"),
)


def sweeps(names: Iterable[str]) -> dict[str, dict[float, str]]:
    """Transforms that differ only in the number at their end.

    Args:
        names: Of transforms.

    Returns:
        Name by strength, ascending, by what stands before the strength; only where there are several.

    Example:
        >>> sweeps(["blur:4", "blur:1", "grey", "rotate:90"])
        {'blur': {1.0: 'blur:1', 4.0: 'blur:4'}}
    """
    found: dict[str, dict[float, str]] = defaultdict(dict)
    for name in names:
        kind, _, strength = name.rpartition(":")
        with suppress(ValueError):
            found[kind][float(strength)] = name
    return {kind: dict(sorted(doses.items())) for kind, doses in found.items() if kind and len(doses) > 1}


def dose_response(differences: pd.DataFrame, found: Mapping[str, dict[float, str]], title: str) -> Figure:
    """A column per sweep, eRanks above and ratios below: changes from the base, with 95 % intervals.

    Args:
        differences: Of one model, from `mmerank.analysis.perturbation.differences_frame`.
        found: From `sweeps`.
        title: Above it.

    Returns:
        The figure.
    """
    across = min(_ACROSS, len(found))
    down = -(-len(found) // across)
    figure = Figure(figsize=(max(2.7 * across, 5) + 0.6, 4.3 * down + 0.4), layout="constrained")
    grid = figure.subplots(2 * down, across, squeeze=False)
    for i, (kind, doses) in enumerate(found.items()):
        upper, left = 2 * (i // across), i % across
        here = differences[differences["transform"].isin(doses.values())]
        grid[upper + 1, left].sharex(grid[upper, left])
        for axes, (names, label) in zip(grid[upper : upper + 2, left], _PANELS, strict=True):
            _draw(axes, here, doses, names)
            if left == 0:
                axes.set_ylabel(label)
        grid[upper, left].set_title(kind)
        form = KNOWN[kind.rpartition("+")[2]].form.rpartition(":")[2]
        grid[upper + 1, left].set_xlabel(form.strip("[]").lower())
    for axes in grid.flat[:]:
        axes.set_visible(axes.has_data())
    legend(figure, list(grid.flat))
    figure.suptitle(title)
    return figure


def _draw(axes: Axes, differences: pd.DataFrame, doses: dict[float, str], names: Sequence[str]) -> None:
    """Lines against strength, moved aside a little so that their intervals stay apart."""
    least, most = min(doses), max(doses)
    logarithmic = least > 0 and most / least > 3
    for i, name in enumerate(names):
        rows = differences[differences["quantity"] == name].set_index("transform")
        if rows["fixed"].all():  # no strength moves it
            continue
        rows = rows.loc[list(doses.values())]
        aside = 0.016 * (i - (len(names) - 1) / 2)
        at = [x * (most / least) ** aside if logarithmic else x + (most - least) * aside for x in doses]
        style = look(list(LABELS).index(name))
        reach = distances(rows, "difference")
        axes.errorbar(at, rows["difference"], reach, capsize=2, label=stage(name), **style)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if logarithmic:
        log_axes(axes, "x")
    spaced_ticks(axes, list(doses), [f"{x:g}" for x in doses])
    bare(axes)
