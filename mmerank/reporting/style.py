"""How figures look: the same colours, markers and lines everywhere, on paper, in grey and for the colour-blind."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito, which the colour-blind see; markers and lines tell them apart in grey.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#009E73", "marker": "D", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "^", "linestyle": ":"},
    {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (3, 1, 1, 1))},
)
# What is drawn in it takes the colour of the text around it on the page.
INK = "#1a1b1c"
_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "lines.markersize": 5,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line of the i-th of several things."""
    return LOOKS[i % len(LOOKS)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style while the block runs.

    Yields:
        Nothing.
    """
    with rc_context(_SETTINGS):
        yield


def bare(axes: Axes) -> None:
    """Take away what carries no data.

    Args:
        axes: Of one panel.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def panels(count: int, *, columns: int = 3, size: tuple[float, float] = (3.1, 2.6)) -> tuple[Figure, list[Axes]]:
    """A grid of panels.

    Args:
        count: Of panels, at least one.
        columns: Most of them side by side.
        size: Of one, inches.

    Returns:
        The figure, and as many axes.
    """
    across = min(count, columns)
    down = -(-count // across)
    # A single panel leaves room for a legend at its side.
    figure = Figure(
        figsize=(size[0] * across + (1.5 if across == 1 else 0.4), size[1] * down + 0.5), layout="constrained"
    )
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, below them.

    Args:
        figure: Whose.
        axes: Panels with labelled lines.
    """
    entries = {
        str(name): handle for panel in axes for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, entries), default=1)
    across = max(1, min(len(entries), int(figure.get_figwidth() * 13 / (longest + 6))))
    figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=across, frameon=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG.

    Args:
        figure: Any.
        stem: Path without the ending.

    Returns:
        What was written.
    """
    stem.parent.mkdir(exist_ok=True)
    with styled():
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png")]
        figure.savefig(paths[0], metadata={"CreationDate": None})
        figure.savefig(paths[1], dpi=200)
    return paths


def svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element for an HTML page, in the text colour of the page.

    Args:
        figure: Any.
        name: Unique on the page; keeps the ids of two figures apart.

    Returns:
        The element.
    """
    out = io.StringIO()
    with styled(), rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids of groups are the same in every figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return text.replace(INK, "currentColor")
