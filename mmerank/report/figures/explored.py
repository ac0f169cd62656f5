"""Spectra and layers of one example, and faintly what they were before its picture was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mmerank.analysis.metrics.layers import LAYER
from mmerank.analysis.sample import Floats
from mmerank.eranks import vision_layer
from mmerank.report.figures.style import INK, bare, log_axes, look

Curves = Mapping[str, Floats]
_LEAST = 1e-7  # eigenvalues that are not rounding
_FAINT: dict[str, Any] = {"alpha": 0.4, "linewidth": 0.8, "marker": "none"}
_SIZE = (3.8, 2.6)
# Left, bottom, width and height; found by no layout engine, which would take longer than the model.
_PLACE = (0.22, 0.18, 0.76, 0.8)
# Of that height a line of the legend, and its entries beside each other.
_LINE, _ACROSS = 0.07, 2


def _axes(entries: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE)
    left, bottom, width, height = _PLACE
    return figure, figure.add_axes((left, bottom, width, height - _LINE * (-(-entries // _ACROSS) + 0.2)))


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=_ACROSS,
        loc="lower center",
        bbox_to_anchor=(0.42, 0.98),
        borderaxespad=0,
        columnspacing=1,
        labelspacing=0.3,
    )


def spectra_of_one(spectra: Curves, before: Curves | None = None) -> Figure | None:
    """Eigenvalues of each measurement of an example.

    Args:
        spectra: In descending order, by what they are called.
        before: The same, drawn faintly.

    Returns:
        The figure; None where there are none.
    """
    if not spectra:
        return None

    def draw(axes: Axes, of: Curves, **style: Any) -> None:
        for i, (label, values) in enumerate(of.items()):
            shown = values[values > _LEAST]
            looks = look(i) | {"marker": "none"} | style
            axes.plot(np.arange(1, len(shown) + 1), shown, label=None if style else label, **looks)

    figure, axes = _axes(len(spectra))
    draw(axes, before or {}, **_FAINT)
    draw(axes, spectra)
    log_axes(axes, "both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue")
    bare(axes)
    _legend(axes)
    return figure


def layers_of_one(points: Sequence[str], curves: Curves, before: Curves | None = None, *, of: str) -> Figure | None:
    """ERanks through the layers of a model.

    Args:
        points: The layers.
        curves: An eRank for each, NaN where there is none, by what they are called.
        before: The same, drawn faintly.
        of: What the layers are of, but for those of a vision encoder, which stand before them.

    Returns:
        The figure; None where there are no layers.
    """
    if len(points) < 2:
        return None

    def draw(axes: Axes, of: Curves, **style: Any) -> None:
        for i, (label, values) in enumerate(of.items()):
            axes.plot(values, label=None if style else label, **look(i) | style)

    figure, axes = _axes(len(curves))
    draw(axes, before or {}, **_FAINT)
    draw(axes, curves)
    step = -(-len(points) // 8)
    shown = sorted({*range(0, len(points), step), len(points) - 1} - {len(points) - 2 if step > 1 else -1})
    names = [f"v{number}" if (number := vision_layer(at)) else at.removeprefix(LAYER) for at in points]
    axes.set_xticks(shown, [names[i] for i in shown])
    if within := sum(map(bool, map(vision_layer, points))):
        axes.axvline(within - 0.5, color=INK, linewidth=0.6, alpha=0.5)
    told = " (v: of its vision encoder)" if within else ""
    axes.set(xlabel=f"layer of the {of}{told}", ylabel="eRank", ylim=(0, None))
    bare(axes)
    _legend(axes)
    return figure
