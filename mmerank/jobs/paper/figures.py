"""Figures 1, 3 and 4: the same numbers as in the tables, ours and the printed ones against model size.

1: Diff-eRank and reduced loss of OPT, a panel per data set; 3: both on dolly-15k and the accuracy, a panel per
family; 4: the two algorithms. No table of the paper has OPT's accuracy of Figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.jobs.paper.comparison import Compared
from mmerank.jobs.paper.studies import parameters
from mmerank.report.paper import tables as paper

# figure -> what the columns of panels are, what the rows of panels are
FIGURES: dict[str, tuple[Callable[[Compared], str], tuple[str, ...]]] = {
    "figure1": (lambda row: row.data, ("Diff-eRank", "reduced loss")),
    "figure3": (lambda row: row.family, ("Diff-eRank", "reduced loss", "accuracy")),
    "figure4": (lambda row: row.label, ("Diff-eRank",)),
}
UNITS = {"reduced loss": "reduced loss (nats)"}
# Told apart by marker and line, and by colours that the colour-blind see (Okabe and Ito) and that differ in grey.
STYLES: dict[str, dict[str, Any]] = {
    "paper": {"color": "black", "marker": "o", "linestyle": "-"},
    "ours": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "ours, dropout off": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "ours, dropout on": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
}


def _of(row: Compared, label: str) -> bool:
    """Whether a row belongs into a panel of this indicator; both algorithms give a Diff-eRank."""
    return row.label == label or (label == "Diff-eRank" and row.label.startswith("algorithm"))


def _lines(rows: Sequence[Compared], label: str) -> dict[str, dict[str, float]]:
    """Name of a line -> size -> number."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if _of(row, label):
            found.setdefault("paper", {})[row.size] = row.paper
            found.setdefault(f"ours, dropout {row.dropout}" if row.dropout else "ours", {})[row.size] = row.ours
    return found


def _panel(axes: Axes, rows: Sequence[Compared], label: str) -> None:
    """One indicator of one family on one data set, against size."""
    for name, values in _lines(rows, label).items():
        known = {size: value for size, value in values.items() if not math.isnan(value)}
        axes.plot(
            [*map(parameters, known)], [*known.values()], label=name, markersize=5, linewidth=1.4, **STYLES[name]
        )
    sizes = [size for size in paper.FAMILIES[rows[0].family] if size in {row.size for row in rows}]
    axes.set_xscale("log")
    axes.set_xticks([*map(parameters, sizes)], sizes, rotation=45, ha="right", rotation_mode="anchor")
    axes.minorticks_off()
    axes.margins(x=0.1, y=0.15)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_yticks([])


def _draw(columns: dict[str, list[Compared]], labels: Sequence[str]) -> Figure:
    """A grid of panels, a row per indicator."""
    figure = Figure(figsize=(1.2 + 2.7 * len(columns), 1.0 + 2.2 * len(labels)), layout="constrained")
    grid = figure.subplots(len(labels), len(columns), squeeze=False, sharex="col")
    for j, (name, rows) in enumerate(columns.items()):
        for i, label in enumerate(labels):
            _panel(grid[i][j], rows, label)
        grid[0][j].set_title(name)
        grid[-1][j].set_xlabel("parameters")
    for i, label in enumerate(labels):
        grid[i][0].set_ylabel(UNITS.get(label, label))
    entries = {line.get_label(): line for axes in grid.flat for line in axes.lines}
    side_by_side = len(entries) if len(columns) > 1 else 1
    figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=side_by_side, frameon=False)
    return figure


def draw_figure(name: str, rows: Iterable[Compared], folder: Path) -> list[Path]:
    """Draw a figure as PNG and PDF.

    Args:
        name: `figure1`, `figure3` or `figure4`.
        rows: What was measured for it; nothing is drawn where there are none.
        folder: Where to.

    Returns:
        The files.
    """
    column, labels = FIGURES[name]
    columns: dict[str, list[Compared]] = {}
    for row in rows:
        if any(_of(row, label) for label in labels):
            columns.setdefault(column(row), []).append(row)
    if not columns:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    with rc_context({"font.size": 9, "lines.markersize": 5}):
        drawn = _draw(columns, labels)
        for file in files:
            drawn.savefig(file, dpi=200)
    return files
