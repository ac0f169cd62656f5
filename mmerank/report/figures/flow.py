"""eRank on its way through a multimodal model, as the paper's Figure 2 shows the model, with the numbers in it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from mmerank.eranks import ERANKS
from mmerank.report.figures.style import INK, LOOKS
from mmerank.report.numbers import by_quantity
from mmerank.report.terminal.intervals import interval_text

_WIDTH, _HEIGHT = 1.9, 0.92
# Left lower corner of each box.
_PLACES = {"erank1": (0, 2.5), "erank2": (3.3, 2.5), "erank3": (6.6, 2.5), "erank4": (6.6, 0), "erank5": (6.6, 1.25)}
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
    of = by_quantity(rows)
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.1, 10.8), ylim=(-0.15, 3.75))
    axes.set_axis_off()
    axes.set_title(title)
    highest = max(of[label]["value"] for label in ERANKS)
    for label, corner in _PLACES.items():
        _box(axes, corner, label, of[label], of[label]["value"] / highest)
    right, middle = _WIDTH + 0.08, _HEIGHT / 2
    _arrow(axes, (right, 2.5 + middle), (3.22, 2.5 + middle))
    _arrow(axes, (3.3 + right, 2.5 + middle), (6.52, 2.5 + middle))
    _arrow(axes, (3.3 + right, 2.5 + middle - 0.1), (6.52, 1.25 + middle + 0.15))
    axes.text(0.95, 1.75, "image", ha="center", va="center", fontstyle="italic")
    _arrow(axes, (0.95, 1.9), (0.95, 2.45))
    axes.text(4.25, middle, "text", ha="center", va="center", fontstyle="italic")
    _arrow(axes, (4.65, middle), (6.52, middle))
    _arrow(axes, (4.65, middle + 0.1), (6.52, 1.25 + middle - 0.15))
    axes.text(2.6, 2.27, f"Image Reduction Ratio\n{_ratio(of, 'image_reduction_ratio')}", ha="center", va="top")
    axes.plot([8.72, 8.8, 8.8, 8.72], [0, 0, 2.5 + _HEIGHT, 2.5 + _HEIGHT], color=INK, linewidth=0.9)
    axes.text(8.95, 1.25 + middle, f"Image-Text\nAlignment\n{_ratio(of, 'image_text_alignment')}", va="center")
    return figure


def _box(axes: Axes, corner: tuple[float, float], label: str, number: dict[str, Any], share: float) -> None:
    x, y = corner
    outline: dict[str, Any] = {"linewidth": 0.9, "edgecolor": INK, "facecolor": "none"}
    axes.add_patch(FancyBboxPatch((x, y), _WIDTH, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", **outline))
    colour = LOOKS[list(ERANKS).index(label)]["color"]
    axes.add_patch(Rectangle((x + 0.1, y + 0.07), (_WIDTH - 0.2) * share, 0.08, facecolor=colour, linewidth=0))
    centre = x + _WIDTH / 2
    axes.text(centre, y + 0.76, TITLES[label], ha="center", va="center", fontsize=7.5)
    interval = _limits(number, 2)
    axes.text(
        centre,
        y + 0.52,
        f"{label.replace('erank', 'eRank')} {number['value']:.2f}",
        ha="center",
        va="center",
        fontweight="bold",
    )
    axes.text(centre, y + 0.28, interval, ha="center", va="center", fontsize=7.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=INK, linewidth=0.9, shrinkA=0, shrinkB=0
        )
    )


def _ratio(of: dict[str, dict[str, Any]], name: str) -> str:
    number = of[name]
    interval = _limits(number, 4)
    return f"{number['value']:.4f}\n{interval}"


def _limits(number: dict[str, Any], decimals: int) -> str:
    there = number["low"] == number["low"]
    return interval_text((number["low"], number["high"]), decimals, number["value"]) if there else ""
