"""How figures look: the same colours, markers and lines everywhere, on paper, in grey and for the colour-blind."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.scale import LogScale
from matplotlib.ticker import FuncFormatter, NullFormatter

from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.sample import Floats
from mmerank.durable import own_folder, whole
from mmerank.eranks import ERANKS

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
_WIDEST = 42  # characters of a name
_HEAD = 12  # of these at its beginning, where names differ in what is left out
_LEGEND_LINE = 0.19  # inches
_POINTS = 9  # size of letters for which figures are laid out
_SETTINGS: Any = {
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    # Where parts stand is found by `_placed`.
    **dict.fromkeys(("figure.autolayout", "figure.constrained_layout.use"), False),
    "svg.fonttype": "none",
    # Whole TrueType fonts: text can be searched and edited, and no publisher refuses it, as Type 3.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Style:
    """How figures are drawn for a place.

    Attributes:
        points: Size of letters.
        widths: Inches that a figure may be wide, ascending; none for as wide as it is laid out.
        tallest: Inches that a figure without its legend may be high.
        across: Most panels side by side.
        settings: What else of matplotlib's is set.
    """

    points: float
    widths: tuple[float, ...] = ()
    tallest: float = math.inf
    across: int = 3
    settings: Any = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """Of all lengths that go with letters."""
        return self.points / _POINTS


STYLES = {
    "page": Style(_POINTS),
    # Between the margins of a screen 390 px wide, 96 px an inch.
    "phone": Style(_POINTS, (3.8,), across=1),
    # One column, and two with what is between them.
    "paper": Style(7.5, (3.25, 6.75), 8.5, settings={"savefig.dpi": 300}),
    # Of 13.33 by 7.5 inches.
    "slides": Style(16, (12.0,), 6.6, settings={"savefig.dpi": 160}),
}
EXPORTED = ("paper", "slides")
# A figure is squeezed into a width that is narrower by no more than this.
_SQUEEZED = 0.7
_STYLE = ContextVar("style", default=STYLES["page"])


def style() -> Style:
    """The style that figures are drawn in now."""
    return _STYLE.get()


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line of the i-th of several things; of more than six, in other combinations."""
    turn, place = divmod(i, len(LOOKS))
    found = dict(LOOKS[place])
    if turn:
        other = LOOKS[(place + turn) % len(LOOKS)]
        found |= {"marker": other["marker"], "linestyle": other["linestyle"]}
    return found | ({"markerfacecolor": "none"} if turn % 2 else {})


@contextmanager
def styled(name: str = "") -> Iterator[None]:
    """Draw in a style while the block runs.

    Args:
        name: One of `STYLES`. Default: the one in force.

    Yields:
        Nothing.
    """
    chosen = STYLES[name] if name else style()
    sizes: Any = dict.fromkeys(("font.size", "axes.titlesize", "figure.labelsize", "figure.titlesize"), chosen.points)
    lines: Any = {"lines.markersize": 5 * chosen.scale, "lines.linewidth": 1.4 * chosen.scale}
    before = style()
    _STYLE.set(chosen)
    try:
        with rc_context({**_SETTINGS, **sizes, **lines, **chosen.settings}):
            yield
    finally:
        _STYLE.set(before)  # a figure may end elsewhere than it began


def canvas(width: float, height: float) -> Figure:
    """An empty figure, whose parts find their places.

    Args:
        width: Inches, for letters of 9 points; the style has it otherwise.
        height: As well.

    Returns:
        The figure.
    """
    chosen = style()
    width, height = width * chosen.scale, min(height * chosen.scale, chosen.tallest)
    if chosen.widths:
        width = next((of for of in chosen.widths if of >= _SQUEEZED * width), chosen.widths[-1])
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07 * chosen.scale))


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
    across = min(count, columns, style().across)
    down = -(-count // across)
    figure = canvas(size[0] * across + (0.9 if across == 1 else 0.4), size[1] * down + 0.2)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, below them; the figure grows by its height.

    Args:
        figure: Whose.
        axes: Panels with labelled lines.
    """
    entries = {
        str(name): handle for panel in axes for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, entries), default=1)
    scale = rcParams["font.size"] / _POINTS
    across = max(1, min(len(entries), int(figure.get_figwidth() / scale * 13 / (longest + 6))))
    figure.set_figheight(figure.get_figheight() + scale * _LEGEND_LINE * -(-len(entries) // across))
    figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=across, frameon=False)


def distances(of: pd.DataFrame, value: str = "value") -> Floats:
    """What error bars are made of; nothing where there is no interval.

    Args:
        of: With `low` and `high`.
        value: The column that they belong to.

    Returns:
        From the value down to the lower limit, and up to the upper one, (2, n).
    """
    below, above = of[value] - of["low"], of["high"] - of[value]
    return np.asarray(np.nan_to_num(np.clip(np.stack([below, above]).astype(float), 0, None)))


def log_axes(axes: Axes, which: str, base: int = 10) -> None:
    """Make axes logarithmic, with plain numbers at the ticks.

    Args:
        axes: Of one panel.
        which: `x`, `y` or `both`.
        base: Of the logarithm, for where ticks are.
    """
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if which in (name, "both"):
            axes.set(**{f"{name}scale": LogScale(axis, base=base)})
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def spaced_ticks(axes: Axes, values: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks at values of the x axis, fewer of them where their labels would touch.

    Args:
        axes: Of one panel, its scale set and its lines drawn.
        values: Ascending.
        labels: One for each.
    """
    places = axes.transScale.transform([(value, 1) for value in values])[:, 0]
    spec = axes.get_subplotspec()  # None of axes that a person placed
    width = axes.figure.get_figwidth() / (spec.get_gridspec().ncols if spec else 1)  # type: ignore[union-attr]
    letters = rcParams["font.size"] / _POINTS
    apart = letters * (0.1 + 0.085 * max(map(len, labels))) / width * 1.3 * (places[-1] - places[0])
    kept = [len(values) - 1]
    for i in reversed(range(len(values) - 1)):
        if places[kept[-1]] - places[i] >= apart:
            kept.append(i)
    axes.set_xticks([values[i] for i in kept], [labels[i] for i in kept], minor=False)
    axes.set_xticks([], minor=True)


def stage(label: str) -> str:
    """What an eRank is called in a legend, as `eRank3 llm/image`; of a ratio its name."""
    where = " " + "/".join(ERANKS[label]) if label in ERANKS else ""
    return LABELS[label] + where


def shortened(name: str) -> str:
    """A name on one line, the middle left out where it is long."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST // 2]}…{line[-_WIDEST // 2 + 1 :]}"


def shortened_apart(names: Iterable[str]) -> dict[str, str]:
    """Names on one line each, and no two the same: of those that would be, what tells them apart stays.

    Args:
        names: As they are.

    Returns:
        What each is shown as.
    """
    short = {name: shortened(name) for name in names}
    alike: dict[str, list[str]] = {}
    for name, shown in short.items():
        alike.setdefault(shown, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            differ = (i for i, signs in enumerate(zip(*group, strict=False)) if len({*signs}) > 1)
            common = next(differ, min(map(len, group)))
            cut = {name: shortened(f"{name[:_HEAD]}…{name[common:][: _WIDEST - _HEAD - 1]}") for name in group}
            short |= cut if len({*cut.values()}) == len(group) and common > _HEAD else {name: name for name in group}
    return short


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG, in the style in force.

    Args:
        figure: Any.
        stem: Path without the ending.

    Returns:
        What was written.
    """
    own_folder(stem.parent)
    kinds: dict[str, dict[str, Any]] = {"pdf": {"metadata": {"CreationDate": None}}, "png": {}}
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in kinds}
    with styled():
        _placed(figure)
        for kind, settings in kinds.items():
            with whole(paths[kind]) as unfinished:
                figure.savefig(unfinished, format=kind, **settings)
    return [*paths.values()]


def _placed(figure: Figure) -> None:
    """Find the places of a figure's parts, once: else each file finds them again, and draws all of them for that."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


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
        _placed(figure)
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids of groups are the same in every figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", text)
    return text.replace(INK, "currentColor")
