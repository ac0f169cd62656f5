r"""Draw Figures 1, 3 and 4 of the paper from what text_tables.py measured, beside the printed numbers.

    python scripts/text_tables.py 6 --accuracy --json table6.json      # likewise 7, 8 and 9
    python scripts/text_figures.py 1 table6.json --out figures         # seconds
    python scripts/text_figures.py 3 table6.json table7.json table8.json --out figures
    python scripts/text_figures.py 4 table9.json --out figures

1: Diff-eRank and reduced loss of OPT against model size, a panel per data set; 3: both on dolly-15k and the accuracy,
a panel per family; 4: the two algorithms. Each as PNG and PDF. No table of the paper has OPT's accuracy of Figure 3.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from mmerank import paper
from mmerank.__main__ import guarded
from mmerank.comparison import Compared, comparison_table, read_rows
from mmerank.errors import UsageError

# figure -> tables it is drawn from, what the columns of panels are, what the rows of panels are
FIGURES: dict[int, tuple[set[int], Callable[[Compared], str], tuple[str, ...]]] = {
    1: ({6}, lambda row: row.data, ("Diff-eRank", "reduced loss")),
    3: ({6, 7, 8}, lambda row: row.family, ("Diff-eRank", "reduced loss", "accuracy")),
    4: ({9}, lambda row: row.label, ("Diff-eRank",)),
}
UNITS = {"reduced loss": "reduced loss (nats)"}
# Told apart by marker and line, and by colours that the colour-blind see (Okabe and Ito) and that differ in grey.
STYLES: dict[str, dict[str, Any]] = {
    "paper": {"color": "black", "marker": "o", "linestyle": "-"},
    "ours": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "ours, dropout off": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "ours, dropout on": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
}


def parameters(size: str) -> float:
    """`1.3B` -> 1.3e9."""
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


def of(row: Compared, label: str) -> bool:
    """Whether a row belongs into a panel of this indicator; both algorithms give a Diff-eRank."""
    return row.label == label or (label == "Diff-eRank" and row.label.startswith("algorithm"))


def lines(rows: Sequence[Compared], label: str) -> dict[str, dict[str, float]]:
    """Name of a line -> size -> number."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if of(row, label):
            found.setdefault("paper", {})[row.size] = row.paper
            found.setdefault(f"ours, dropout {row.dropout}" if row.dropout else "ours", {})[row.size] = row.ours
    return found


def panel(axes: Axes, rows: Sequence[Compared], label: str) -> None:
    """One indicator of one family on one data set, against size."""
    for name, values in lines(rows, label).items():
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


def draw(columns: dict[str, list[Compared]], labels: Sequence[str]) -> Figure:
    """A grid of panels, a row per indicator."""
    figure = Figure(figsize=(1.2 + 2.7 * len(columns), 1.0 + 2.2 * len(labels)), layout="constrained")
    grid = figure.subplots(len(labels), len(columns), squeeze=False, sharex="col")
    for j, (name, rows) in enumerate(columns.items()):
        for i, label in enumerate(labels):
            panel(grid[i][j], rows, label)
        grid[0][j].set_title(name)
        grid[-1][j].set_xlabel("parameters")
    for i, label in enumerate(labels):
        grid[i][0].set_ylabel(UNITS.get(label, label))
    entries = {line.get_label(): line for axes in grid.flat for line in axes.lines}
    side_by_side = len(entries) if len(columns) > 1 else 1
    figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=side_by_side, frameon=False)
    return figure


def main() -> None:
    """Print the numbers and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=int, choices=FIGURES)
    parser.add_argument("rows", nargs="+", type=Path, metavar="FILE", help="from text_tables.py --json")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    options = parser.parse_args()
    tables, column, labels = FIGURES[options.figure]
    rows = [row for path in options.rows for row in read_rows(path) if row.table in tables]
    rows = [row for row in rows if any(of(row, label) for label in labels)]
    if options.figure == 3:
        rows = [row for row in rows if row.data == "dolly-15k"]
    if not rows:
        raise UsageError(f"figure {options.figure} is drawn from table {', '.join(map(str, sorted(tables)))}")
    columns: dict[str, list[Compared]] = {}
    for row in rows:
        columns.setdefault(column(row), []).append(row)
    Console().print(comparison_table(f"Figure {options.figure}", rows))
    options.out.mkdir(parents=True, exist_ok=True)
    with rc_context({"font.size": 9, "lines.markersize": 5}):
        drawn = draw(columns, labels)
        for kind in ("png", "pdf"):
            drawn.savefig(options.out / f"figure{options.figure}.{kind}", dpi=200)


if __name__ == "__main__":
    guarded(main)
