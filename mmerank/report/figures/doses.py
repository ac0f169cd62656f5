"""Dose and response: what the strengths of a transform do to each number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.analysis.metrics.alignment import LABELS
from mmerank.eranks import ERANKS
from mmerank.inputs.transforms.known import KNOWN
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import (
    bare,
    canvas,
    distances,
    legend,
    log_axes,
    look,
    spaced_ticks,
    stage,
    style,
)

_ACROSS = 3
_ANGLE = "degrees"
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
        Name by strength, ascending, by what stands before the strength; only where there are several. Angles to
        either side of 0 are there with their signs.

    Example:
        >>> sweeps(["blur:4", "blur:1", "grey", "rotate:350", "rotate:10"])
        {'blur': {1.0: 'blur:1', 4.0: 'blur:4'}, 'rotate': {-10.0: 'rotate:350', 10.0: 'rotate:10'}}
    """
    found: dict[str, dict[float, str]] = defaultdict(dict)
    for name in names:
        kind, _, strength = name.rpartition(":")
        with suppress(ValueError):
            found[kind][float(strength)] = name
    return {
        kind: dict(sorted((_signed(doses) if _unit(kind) == _ANGLE else doses).items()))
        for kind, doses in found.items()
        if kind and len(doses) > 1
    }


def _signed(doses: dict[float, str]) -> dict[float, str]:
    """Angles from -180 to 180 where these lie closer together than those from 0 to 360, in which they are named."""
    signed = {x - 360 if x > 180 else x: name for x, name in doses.items()}
    return signed if max(signed) - min(signed) < max(doses) - min(doses) else doses


def _unit(kind: str) -> str:
    """What the strength of a sweep is."""
    known = KNOWN.get(kind.rpartition("+")[2])
    return "strength" if known is None else known.form.rpartition(":")[2].strip("[]").lower()


def dose_response(differences: pd.DataFrame, found: Mapping[str, dict[float, str]], title: str) -> Figure:
    """A column per sweep, eRanks above and ratios below: changes from the base, with 95 % intervals.

    Args:
        differences: Of one model, from `mmerank.analysis.perturbation.differences_frame`.
        found: From `sweeps`.
        title: Above it.

    Returns:
        The figure.
    """
    across = min(_ACROSS, len(found), style().across)
    down = -(-len(found) // across)
    figure = canvas(max(2.7 * across, 4 if across == 1 else 5) + 0.6, 4.3 * down + 0.4)
    grid = figure.subplots(2 * down, across, squeeze=False)
    for i, (kind, doses) in enumerate(found.items()):
        upper, left = 2 * (i // across), i % across
        here = differences[differences["transform"].isin(doses.values())]
        grid[upper + 1, left].sharex(grid[upper, left])
        for axes, (names, label) in zip(grid[upper : upper + 2, left], _PANELS, strict=True):
            _draw(axes, here, doses, names, straight=_unit(kind) == _ANGLE)
            if left == 0:
                axes.set_ylabel(label)
        grid[upper, left].set_title(kind)
        grid[upper + 1, left].set_xlabel(_unit(kind))
    for axes in grid.flat[:]:
        axes.set_visible(axes.has_data())
    legend(figure, list(grid.flat))
    figure.suptitle(title)
    return figure


def doses(name: str, differences: pd.DataFrame, found: Mapping[str, dict[float, str]], title: str, n: int) -> Drawing:
    """The same as panels that can be drawn by themselves.

    Args:
        name: Of the figure.
        differences: As for `dose_response`.
        found: From `sweeps`.
        title: Above it.
        n: Number of examples.

    Returns:
        The figure.
    """

    def draw(axes: Axes, kind: str, names: Sequence[str], label: str) -> None:
        here = differences[differences["transform"].isin(found[kind].values())]
        _draw(axes, here, found[kind], names, straight=_unit(kind) == _ANGLE)
        axes.set(xlabel=f"{kind}, {_unit(kind)}", ylabel=label)

    each = {
        f"{kind}, {of}": partial(draw, kind=kind, names=names, label=label)
        for kind in found
        for of, (names, label) in zip(("eRanks", "ratios"), _PANELS, strict=True)
    }
    caption = f"What each strength of a transform changes, with 95 % intervals: {title}, n = {n}."
    return Drawing(name, caption, each, composed=partial(dose_response, differences, found, title))


def _draw(
    axes: Axes, differences: pd.DataFrame, doses: dict[float, str], names: Sequence[str], *, straight: bool
) -> None:
    """Lines against strength, each point at its own; intervals that meet have caps of other widths."""
    least, most = min(doses), max(doses)
    logarithmic = not straight and least > 0 and most / least > 3
    for i, name in enumerate(names):
        rows = differences[differences["quantity"] == name].set_index("transform")
        if rows["fixed"].all():  # no strength moves it
            continue
        rows = rows.loc[list(doses.values())]
        looks = look(list(LABELS).index(name))
        reach = distances(rows, "difference")
        drawn = axes.errorbar(
            list(doses), rows["difference"], reach, capsize=1.5 + 0.7 * i, elinewidth=0.8, label=stage(name), **looks
        )
        for part in (*drawn.lines[1], *drawn.lines[2]):
            part.set_alpha(0.65)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if logarithmic:
        log_axes(axes, "x")
    spaced_ticks(axes, list(doses), [f"{x:g}" for x in doses])
    bare(axes)
