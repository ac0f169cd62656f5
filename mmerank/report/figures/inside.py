"""What attention and MLP of each block add to the residual stream: eRank and share in the span of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.eranks import UPDATES
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, look

# Lines of a panel: rows of pairs, or the models of texts, and what they are called.
_OF_PAIRS = {"image": "image rows", "text": "text rows"}
_OF_TEXTS = {"trained": "trained", "untrained": "untrained"}
_DRAWN = {
    "erank": "eRank of the update",
    "share": "share in its input's span",
    "overlap": "overlap of the spans",
}
_PARTS = {"attention": "attention", "mlp": "MLP"}
_TICKS = 8


def has_updates(run: Finished, model: str) -> bool:
    """Whether blocks of a model were looked into."""
    here = run.estimates
    return bool(((here["model"] == model) & (here["metric"] == "inside")).any())


def updates_by_block(
    found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str], name: str
) -> Drawing:
    """A panel for attention and one for the MLP of each model, for each of eRank, share and overlap.

    Args:
        found: Runs in which blocks were looked into, and their models.
        called: Name by run and model.
        name: Of the figure.

    Returns:
        The figure, two columns wide: by chance dotted, intervals shaded.
    """
    caption = (
        "What attention and MLP of each block add to the residual stream, with 95 % intervals: eRank, share in the "
        "span of what it is added to, and overlap of their spans; dotted: by chance."
    )
    each = {}
    for run, model in found:
        rows, lines = _updates(run, model), _OF_TEXTS if run.job == "diff" else _OF_PAIRS
        for number, label in _DRAWN.items():
            both = rows[rows["number"].isin(_with_chance(number))]
            draw = partial(_draw_part, rows=both, number=number, lines=lines)
            for part in UPDATES:
                title = f"{called[run.name, model]}: {_PARTS[part]}"
                each[f"{title}, {label}"] = partial(draw, part=part, title=title)
    return Drawing(name, caption, each, columns=2, size=(4.2, 2.2), titled=False)


def _updates(run: Finished, model: str) -> pd.DataFrame:
    """Numbers of updates: `update`, `block`, what rows they are `of`, and `number`."""
    rows = run.estimates[(run.estimates["model"] == model) & (run.estimates["metric"] == "inside")]
    parts = rows["quantity"].str.extract(r"(\w+) (\d+)/(\w+)/(\w+)")
    return rows.assign(update=parts[0], block=parts[1].astype(int), of=parts[2], number=parts[3])


def _with_chance(number: str) -> tuple[str, str]:
    return number, f"{number}_by_chance"


def _draw_part(axes: Axes, rows: pd.DataFrame, number: str, lines: Mapping[str, str], part: str, title: str) -> None:
    """One number of one part, on the scale of both parts."""
    _draw(axes, rows[rows["update"] == part], number, lines)
    shown = rows[rows["of"].isin(list(lines))]
    axes.set_ylim(0, 1.05 * float(np.nanmax(shown[["value", "high"]].to_numpy(float))))
    axes.set_title(title)
    axes.set(xlabel="block", ylabel=_DRAWN[number])


def _draw(axes: Axes, rows: pd.DataFrame, number: str, lines: Mapping[str, str]) -> None:
    blocks = sorted(rows["block"].unique())
    for i, (of, label) in enumerate(lines.items()):
        style = look(i)
        at = {
            name: rows[(rows["of"] == of) & (rows["number"] == name)].set_index("block").reindex(blocks)
            for name in _with_chance(number)
        }
        values = at[number]
        axes.plot(blocks, values["value"], label=label, **style)
        low, high = (values[end].astype(float) for end in ("low", "high"))
        axes.fill_between(blocks, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if np.isfinite(chance := at[_with_chance(number)[1]]["value"].astype(float)).any():
            axes.plot(blocks, chance, color=style["color"], linewidth=1, linestyle=(0, (1, 2)))
    step = max(1, -(-len(blocks) // _TICKS))
    axes.set_xticks(blocks[::step])
    axes.set_ylim(bottom=0)
    bare(axes)
