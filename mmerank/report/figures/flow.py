"""eRank on its way through a multimodal model, as the paper's Figure 2 shows the model, with the numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from mmerank.eranks import ERANKS
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import INK, LOOKS, canvas, style
from mmerank.report.numbers import by_quantity
from mmerank.report.terminal.intervals import interval_text

_Point = tuple[float, float]
_HEIGHT = 0.92  # of a box


@dataclass(frozen=True)
class _Layout:
    """Where things stand, in units of its own.

    Attributes:
        size: Of the figure, inches for letters of 9 points.
        limits: Of both axes.
        width: Of a box.
        corners: The left lower one of each box.
        arrows: From where to where.
        words: What enters, and where.
        reduction: Where the Image Reduction Ratio is told, how it is aligned and broken.
        bracket: Around what the Image-Text Alignment is taken of.
        alignment: As `reduction`.
    """

    size: tuple[float, float]
    limits: tuple[tuple[float, float], tuple[float, float]]
    width: float
    corners: Mapping[str, _Point]
    arrows: tuple[tuple[_Point, _Point], ...]
    words: Mapping[str, _Point]
    reduction: tuple[_Point, str, str]
    bracket: tuple[_Point, ...]
    alignment: tuple[_Point, str, str]


_WIDE = _Layout(
    size=(7.2, 3.1),
    limits=((-0.1, 10.8), (-0.15, 3.75)),
    width=1.9,
    corners=dict(zip(ERANKS, ((0, 2.5), (3.3, 2.5), (6.6, 2.5), (6.6, 0), (6.6, 1.25)), strict=True)),
    arrows=(
        ((1.98, 2.96), (3.22, 2.96)),
        ((5.28, 2.96), (6.52, 2.96)),
        ((5.28, 2.86), (6.52, 1.86)),
        ((0.95, 1.9), (0.95, 2.45)),
        ((4.65, 0.46), (6.52, 0.46)),
        ((4.65, 0.56), (6.52, 1.56)),
    ),
    words={"image": (0.95, 1.75), "text": (4.25, 0.46)},
    reduction=((2.6, 2.0), "center", "Image Reduction Ratio\n{}\n{}"),
    bracket=((8.72, 0), (8.8, 0), (8.8, 3.42), (8.72, 3.42)),
    alignment=((8.95, 1.71), "left", "Image-Text\nAlignment\n{}\n{}"),
)
_NARROW = _Layout(
    size=(3.8, 3.6),
    limits=((-0.1, 6.3), (-0.95, 4.8)),
    width=1.95,
    corners=dict(zip(ERANKS, ((0, 2.75), (2.15, 2.75), (0, 0.35), (4.3, 0.35), (2.15, 0.35)), strict=True)),
    arrows=(
        ((1.98, 3.21), (2.12, 3.21)),
        ((0.975, 4.2), (0.975, 3.75)),
        ((2.9, 2.67), (1.0, 1.35)),
        ((3.12, 2.67), (3.12, 1.35)),
        ((5.27, 1.95), (5.27, 1.35)),
        ((5.1, 1.95), (3.6, 1.35)),
    ),
    words={"image": (0.975, 4.4), "text": (5.27, 2.15)},
    reduction=((4.3, 3.21), "left", "Image Reduction\nRatio {}\n{}"),
    bracket=((0, 0.2), (0, 0.08), (6.25, 0.08), (6.25, 0.2)),
    alignment=((3.12, -0.4), "center", "Image-Text Alignment\n{} {}"),
)
# Where each eRank is read.
TITLES = {
    "erank1": "vision encoder",
    "erank2": "connector",
    "erank3": "LLM, image",
    "erank4": "LLM, text",
    "erank5": "LLM, image + text",
}


def flow(rows: pd.DataFrame, title: str) -> Figure:
    """The five eRanks where they are measured, with both ratios; the bars are as long as the eRanks are high.

    Args:
        rows: Numbers of one model on one data set.
        title: Above it.

    Returns:
        The figure.
    """
    layout = _NARROW if style().across == 1 else _WIDE
    figure = canvas(*layout.size)
    _draw(figure.subplots(), rows, layout)
    figure.axes[0].set_title(title)
    return figure


def flow_drawing(name: str, caption: str, rows: pd.DataFrame, title: str) -> Drawing:
    """The same as it is drawn into axes of a person's own.

    Args:
        name: Of the figure.
        caption: Its.
        rows: As for `flow`.
        title: Above it.

    Returns:
        The figure.
    """
    return Drawing(
        name, caption, {title: partial(_draw, rows=rows, layout=_WIDE)}, composed=partial(flow, rows, title)
    )


def _draw(axes: Axes, rows: pd.DataFrame, layout: _Layout) -> None:
    of = by_quantity(rows)
    axes.set(xlim=layout.limits[0], ylim=layout.limits[1])
    axes.set_axis_off()
    highest = max(of[label]["value"] for label in ERANKS)
    for label, corner in layout.corners.items():
        _box(axes, corner, layout.width, label, of[label], of[label]["value"] / highest)
    for start, end in layout.arrows:
        _arrow(axes, start, end)
    for word, (x, y) in layout.words.items():
        axes.text(x, y, word, ha="center", va="center", fontstyle="italic")
    for name, ((x, y), aligned, form) in (
        ("image_reduction_ratio", layout.reduction),
        ("image_text_alignment", layout.alignment),
    ):
        told = form.format(f"{of[name]['value']:.4f}", _limits(of[name], 4)).rstrip()
        axes.text(x, y, told, ha=aligned, va="center")
    axes.plot(*zip(*layout.bracket, strict=True), color=INK, linewidth=0.9)


def _box(
    axes: Axes, corner: tuple[float, float], width: float, label: str, number: dict[str, Any], share: float
) -> None:
    x, y = corner
    outline: dict[str, Any] = {"linewidth": 0.9, "edgecolor": INK, "facecolor": "none"}
    axes.add_patch(FancyBboxPatch((x, y), width, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", **outline))
    colour = LOOKS[list(ERANKS).index(label)]["color"]
    axes.add_patch(Rectangle((x + 0.1, y + 0.07), (width - 0.2) * share, 0.08, facecolor=colour, linewidth=0))
    centre = x + width / 2
    axes.text(centre, y + 0.76, TITLES[label], ha="center", va="center", fontsize="small")
    interval = _limits(number, 2)
    axes.text(
        centre,
        y + 0.52,
        f"{label.replace('erank', 'eRank')} {number['value']:.2f}",
        ha="center",
        va="center",
        fontweight="bold",
    )
    axes.text(centre, y + 0.28, interval, ha="center", va="center", fontsize="small")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=INK, linewidth=0.9, shrinkA=0, shrinkB=0
        )
    )


def _limits(number: dict[str, Any], decimals: int) -> str:
    there = number["low"] == number["low"]
    return interval_text((number["low"], number["high"]), decimals, number["value"]) if there else ""
