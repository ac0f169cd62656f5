"""What attention and MLP of each block add to the residual stream: eRank and share in the span of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.analysis.finished import Finished
from mmerank.eranks import UPDATES
from mmerank.report.figures.style import bare, legend, look, panels

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


def updates_by_block(found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> Figure:
    """A panel for attention and one for the MLP of each model, for each of eRank, share and overlap.

    Args:
        found: Runs in which blocks were looked into, and their models.
        called: Name by run and model.

    Returns:
        The figure, two columns wide: by chance dotted, intervals shaded.
    """
    figure, grid = panels(len(found) * len(_DRAWN) * len(UPDATES), columns=2, size=(4.2, 2.2))
    places = iter(grid)
    for run, model in found:
        lines = _OF_TEXTS if run.job == "diff" else _OF_PAIRS
        rows = run.estimates[(run.estimates["model"] == model) & (run.estimates["metric"] == "inside")]
        parts = rows["quantity"].str.extract(r"(\w+) (\d+)/(\w+)/(\w+)")
        rows = rows.assign(update=parts[0], block=parts[1].astype(int), of=parts[2], number=parts[3])
        for number, label in _DRAWN.items():
            pair = [next(places) for _ in UPDATES]
            for axes, part in zip(pair, UPDATES, strict=True):
                here = rows[rows["update"] == part]
                _draw(axes, here, number, lines)
                axes.set_title(f"{called[run.name, model]}: {_PARTS[part]}" if number == "erank" else "")
                axes.set_xlabel("block" if number == [*_DRAWN][-1] else "")
            top = max(axes.get_ylim()[1] for axes in pair)
            for axes in pair:
                axes.set_ylim(0, top)
            pair[0].set_ylabel(label)
    legend(figure, grid)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, number: str, lines: Mapping[str, str]) -> None:
    blocks = sorted(rows["block"].unique())
    for i, (of, label) in enumerate(lines.items()):
        style = look(i)
        at = {
            name: rows[(rows["of"] == of) & (rows["number"] == name)].set_index("block").reindex(blocks)
            for name in (number, f"{number}_by_chance")
        }
        values = at[number]
        axes.plot(blocks, values["value"], label=label, **style)
        low, high = (values[end].astype(float) for end in ("low", "high"))
        axes.fill_between(blocks, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if np.isfinite(chance := at[f"{number}_by_chance"]["value"].astype(float)).any():
            axes.plot(blocks, chance, color=style["color"], linewidth=1, linestyle=(0, (1, 2)))
    step = max(1, -(-len(blocks) // _TICKS))
    axes.set_xticks(blocks[::step])
    axes.set_ylim(bottom=0)
    bare(axes)
