"""Spectra and layers of one example, and faintly what they were before its picture was changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mmerank.analysis.metrics.layers import LAYER, ROWS
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.sample import Floats
from mmerank.eranks import by_label
from mmerank.report.figures.style import bare, log_axes, look, stage

_LEAST = 1e-7  # eigenvalues that are not rounding
_FAINT: dict[str, Any] = {"alpha": 0.4, "linewidth": 0.8, "marker": "none"}
_SIZE = (3.8, 2.6)
# Left, bottom, width and height; found by no layout engine, which would take longer than the model.
_PLACE = (0.15, 0.18, 0.83, 0.72)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE)
    return figure, figure.add_axes(_PLACE)


def spectra_of_one(result: AlignmentResult, before: AlignmentResult | None = None) -> Figure | None:
    """Eigenvalues of each of the five measurements of an example.

    Args:
        result: Of one example.
        before: The same, drawn faintly.

    Returns:
        The figure; None where the records are without their spectra.
    """
    if not any(True for _ in _eigenvalues(result)):
        return None

    def draw(axes: Axes, of: AlignmentResult, **style: Any) -> None:
        for i, (label, values) in enumerate(_eigenvalues(of)):
            shown = values[values > _LEAST]
            looks = look(i) | {"marker": "none"} | style
            axes.plot(np.arange(1, len(shown) + 1), shown, label=None if style else stage(label), **looks)

    figure, axes = _axes()
    if before is not None:
        draw(axes, before, **_FAINT)
    draw(axes, result)
    log_axes(axes, "both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue")
    bare(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _eigenvalues(result: AlignmentResult) -> Iterator[tuple[str, Floats]]:
    for label, records in by_label(result.records).items():
        for record in records:
            if len(record.spectrum):
                yield label, np.asarray(record.spectrum, np.float64)


def layers_of_one(result: AlignmentResult, before: AlignmentResult | None = None) -> Figure | None:
    """The eRank of the pair through the layers of the LLM: of all rows, of the image's and of the text's.

    Args:
        result: Of one example.
        before: The same, drawn faintly.

    Returns:
        The figure; None where layers were not measured.
    """
    if not (layers := result.layers):
        return None

    def draw(axes: Axes, of: AlignmentResult, **style: Any) -> None:
        for i, name in enumerate(ROWS):
            values = [np.nan if at.get(name) is None else at[name] for at in of.layers or []]
            axes.plot(values, label=None if style else f"{name} rows", **look(i) | style)

    figure, axes = _axes()
    if before is not None:
        draw(axes, before, **_FAINT)
    draw(axes, result)
    step = -(-len(layers) // 8)
    shown = sorted({*range(0, len(layers), step), len(layers) - 1} - {len(layers) - 2 if step > 1 else -1})
    axes.set_xticks(shown, [layers[i]["point"].removeprefix(LAYER) for i in shown])
    axes.set(xlabel="layer of the LLM", ylabel="eRank of the pair", ylim=(0, None))
    bare(axes)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1))
    return figure
