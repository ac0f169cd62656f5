r"""Draw the figure of docs/does-it-follow-size.md from the tables in it.

    python scripts/size_figure.py            # seconds

Left: Diff-eRank and reduced loss against width, at the end of training; right: what Diff-eRank is the difference of.
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from mmerank.__main__ import guarded
from mmerank.errors import DataError

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "does-it-follow-size.md"
# Colours of Okabe and Ito, which the colour-blind see; markers and lines tell them apart in grey.
LOOKS: dict[str, Any] = {
    "dropout off": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "dropout on": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
    "trained": {"color": "black", "marker": "o", "linestyle": "-"},
    "trained, half-way": {"color": "#666666", "marker": "x", "linestyle": "-."},
}


def tables(page: str) -> list[list[list[float]]]:
    """Tables of the page, each by column; what stands behind ± is left out."""
    found: list[list[list[float]]] = [[]]
    for line in page.splitlines():
        cells = [cell.strip().partition(" ±")[0] for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            found[-1].append([*map(float, cells)])
        elif found[-1]:
            found.append([])
    return [[list(column) for column in zip(*rows, strict=True)] for rows in found if rows]


def draw(final: list[list[float]], half: list[list[float]]) -> Figure:
    """Both panels, from the columns of the two tables."""
    width, trained, off, diff_off, on, diff_on, _, reduced = final
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in (("dropout off", diff_off), ("dropout on", diff_on)):
        left.plot(width, values, label=f"Diff-eRank, {name}", **LOOKS[name])
    left.set_ylabel("Diff-eRank")
    loss = left.twinx()
    loss.plot(width, reduced, label="reduced loss (right axis)", **LOOKS["trained"])
    loss.set_ylabel("reduced loss (nats)")
    handles = [*left.lines, *loss.lines]
    left.legend(handles, [str(line.get_label()) for line in handles], loc="lower right", frameon=False)
    for name, label, values in (
        ("dropout on", "untrained, dropout on", on),
        ("dropout off", "untrained, dropout off", off),
        ("trained", "trained", trained),
        ("trained, half-way", "trained, half-way", half[1]),
    ):
        right.plot(width, values, label=label, **LOOKS[name])
    right.set_ylabel("eRank")
    right.legend(loc="upper left", frameon=False)
    for axes in (left, right):
        axes.set_xticks(width, [f"{w:.0f}" for w in width])
        axes.set_xlabel("width of the model")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines["top"].set_visible(False)
    right.spines["right"].set_visible(False)
    loss.spines["top"].set_visible(False)
    left.set_ylim(top=1.2 * max(diff_on))  # below the loss
    loss.set_ylim(bottom=0)
    return figure


def main() -> None:
    """Read the page and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "figures" / PAGE.with_suffix(".png").name)
    options = parser.parse_args()
    found = tables(PAGE.read_text())
    if len(found) != 2:
        raise DataError(f"{PAGE}: expected two tables, found {len(found)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"font.size": 9, "lines.markersize": 5}):
        draw(*found).savefig(options.out, dpi=110)


if __name__ == "__main__":
    guarded(main)
